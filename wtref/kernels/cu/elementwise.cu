/* One pass over memory each: value by value, or channel by channel of rows (rows, channels).  */

extern "C" __global__ void relu(const REAL *a, long long size, REAL *out)
{
    EACH(i, size)
        out[i] = a[i] < 0 ? 0 : a[i];  // NaN stays NaN
}

extern "C" __global__ void relu_back(const REAL *delta, const REAL *y, long long size, REAL *out)
{
    EACH(i, size)
        out[i] = y[i] > 0 ? delta[i] : 0;
}

extern "C" __global__ void add(const REAL *a, const REAL *b, int rectify, long long size, REAL *out)
{
    EACH(i, size) {
        const REAL sum = a[i] + b[i];
        out[i] = rectify && sum < 0 ? 0 : sum;
    }
}

extern "C" __global__ void norm_forward(
    const REAL *x, const REAL *mean, const REAL *scale, const REAL *shift, int rectify, int channels, long long size,
    REAL *out)
{
    EACH(i, size) {
        const int c = i % channels;
        const REAL y = (x[i] - mean[c]) * scale[c] + shift[c];
        out[i] = rectify && y < 0 ? 0 : y;
    }
}

/* y may be null: delta counts everywhere.  */
extern "C" __global__ void norm_back(
    const REAL *delta, const REAL *x, const REAL *mean, const REAL *scale, const REAL *slope, const REAL *shift,
    const REAL *y, int channels, long long size, REAL *out)
{
    EACH(i, size) {
        const int c = i % channels;
        const REAL d = y && !(y[i] > 0) ? 0 : delta[i];
        out[i] = d * scale[c] + (x[i] - mean[c]) * slope[c] + shift[c];
    }
}

/* lr, a single number, lies on the device: a captured step reads it anew each time.  */
extern "C" __global__ void descend(
    REAL *w, REAL *v, const REAL *gradient, const REAL *lr, REAL momentum, REAL decay, int nesterov, long long size)
{
    EACH(i, size) {
        const REAL g = gradient[i] + decay * w[i];
        const REAL velocity = v[i] = momentum * v[i] + g;
        w[i] -= *lr * (nesterov ? g + momentum * velocity : velocity);
    }
}

/* running += momentum (factor batch - running).  */
extern "C" __global__ void follow(REAL *running, const REAL *batch, REAL momentum, REAL factor, long long size)
{
    EACH(i, size)
        running[i] += momentum * (factor * batch[i] - running[i]);
}

/* out (2, size): 1 / the standard deviation, and gamma times that.  */
extern "C" __global__ void norm_scale(const REAL *variance, const REAL *gamma, REAL epsilon, long long size, REAL *out)
{
    EACH(i, size) {
        out[i] = 1 / sqrt(variance[i] + epsilon);
        out[size + i] = gamma[i] * out[i];
    }
}

/* out (2, size): slope and shift of norm_back.  */
extern "C" __global__ void norm_slopes(
    const REAL *delta_sum, const REAL *centred_sum, const REAL *inverse_std, const REAL *scale, REAL count,
    long long size, REAL *out)
{
    EACH(i, size) {
        out[i] = -scale[i] * inverse_std[i] * inverse_std[i] * centred_sum[i] / count;
        out[size + i] = -scale[i] * delta_sum[i] / count;
    }
}
