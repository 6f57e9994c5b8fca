/* Element-wise kernels, each one pass over arrays of values or of rows (rows, channels).  */

__device__ REAL rectified(REAL x) { return x < 0 ? 0 : x; }  // NaN stays NaN

/* Convert a REAL array to STORED.  */
extern "C" __global__ void stored(const REAL *x, int size, STORED *out)
{
    each_group(size, size, aligned(x, out), [=](auto at) {
        const auto values = at.of(x);
        at.set(out, [&](int j) { return values[j]; });
    });
}

extern "C" __global__ void relu(const STORED *a, int size, STORED *out)
{
    each_group(size, size, aligned(a, out), [=](auto at) {
        const auto x = at.of(a);
        at.set(out, [&](int j) { return rectified(x[j]); });
    });
}

extern "C" __global__ void relu_back(const STORED *delta, const STORED *y, int size, STORED *out)
{
    each_group(size, size, aligned(delta, y, out), [=](auto at) {
        const auto let_through = at.of(y);
        const auto d = masked(at.of(delta), [&](int j) { return let_through[j]; });
        at.set(out, [&](int j) { return d[j]; });
    });
}

extern "C" __global__ void add(const STORED *a, const STORED *b, int rectify, int size, STORED *out)
{
    each_group(size, size, aligned(a, b, out), [=](auto at) {
        const auto x = at.of(a), y = at.of(b);
        at.set(out, [&](int j) {
            const REAL sum = x[j] + y[j];
            return rectify ? rectified(sum) : sum;
        });
    });
}

extern "C" __global__ void biased(const STORED *a, const REAL *b, int channels, int size, STORED *out)
{
    each_group(size, channels, aligned(a, b, out), [=](auto at) {
        const auto x = at.of(a);
        const auto offset = at.channels_of(b);
        at.set(out, [&](int j) { return x[j] + offset[j]; });
    });
}

/* plus may be null.  */
extern "C" __global__ void norm_forward(
    const STORED *x, const REAL *mean, const REAL *scale, const REAL *beta, const STORED *plus, int rectify, int channels,
    int size, STORED *out)
{
    each_group(size, channels, aligned(x, mean, scale, beta, plus, out), [=](auto at) {
        const auto before = at.of(x), more = at.of(plus ? plus : x);
        const auto centre = at.channels_of(mean), factor = at.channels_of(scale), offset = at.channels_of(beta);
        at.set(out, [&](int j) {
            const REAL y = (before[j] - centre[j]) * factor[j] + offset[j] + (plus ? (REAL) more[j] : 0);
            return rectify ? rectified(y) : y;
        });
    });
}

/* beta: as in through_relu.  */
extern "C" __global__ void norm_back(
    const STORED *delta, const STORED *x, const REAL *mean, const REAL *scale, const REAL *slope, const REAL *shift,
    const REAL *beta, int channels, int size, STORED *out)
{
    each_group(size, channels, aligned(delta, x, mean, scale, slope, shift, beta, out), [=](auto at) {
        const auto d = through_relu(at, delta, x, mean, scale, beta), before = at.of(x);
        const auto centre = at.channels_of(mean), factor = at.channels_of(scale);
        const auto along = at.channels_of(slope), offset = at.channels_of(shift);
        at.set(out, [&](int j) { return d[j] * factor[j] + (before[j] - centre[j]) * along[j] + offset[j]; });
    });
}

/* lr points to a single number on the device, so that a replayed CUDA graph reads its current value.  */
extern "C" __global__ void descend(
    REAL *w, REAL *v, const REAL *gradient, const REAL *lr, REAL momentum, REAL decay, int nesterov, int size)
{
    each_group(size, size, aligned(w, v, gradient), [=](auto at) {
        const auto before = at.of(w), velocity = at.of(v), slope = at.of(gradient);
        const REAL rate = *lr;
        auto g = slope, after = velocity;
        for (int j = 0; j < at.COUNT; j++) {
            g.x[j] = slope[j] + decay * before[j];
            after.x[j] = momentum * velocity[j] + g[j];
        }
        at.set(v, [&](int j) { return after[j]; });
        at.set(w, [&](int j) { return before[j] - rate * (nesterov ? g[j] + momentum * after[j] : after[j]); });
    });
}

/* out (2, size): 1 / the standard deviation, and gamma times that.  */
extern "C" __global__ void norm_scale(const REAL *variance, const REAL *gamma, REAL epsilon, int size, REAL *out)
{
    EACH(i, size) {
        out[i] = 1 / sqrt(variance[i] + epsilon);
        out[size + i] = gamma[i] * out[i];
    }
}

/* out (images, channels): the mean of x (images, positions, channels).  */
extern "C" __global__ void average(const STORED *x, int positions, int channels, int size, REAL *out)
{
    EACH(i, size) {
        const STORED *first = x + (size_t) (i / channels) * positions * channels + i % channels;
        REAL sum = 0;
        for (int position = 0; position < positions; position++)
            sum += first[position * channels];
        out[i] = sum / positions;
    }
}
