/* Sums over rows for each channel: first of each block's part of the rows, then of the parts.

   A `Sum` is initialised to zeros and can join others.  */

/* The sums of delta and of delta (x - mean).  */
struct Products {
    REAL plain, centred;

    __device__ void join(const Products &other) { plain += other.plain, centred += other.centred; }
};

/* One thread's sums over its rows, a `Sum` for each of N channels.  */
template <int N> struct MomentsOf {
    typedef Moments Sum;
    const STORED *x;
    Accumulator accumulators[N];

    __device__ MomentsOf(const STORED *x) : x(x) {}
    __device__ void add(const group<N> &at)
    {
        const auto values = at.of(x);
        #pragma unroll
        for (int j = 0; j < N; j++)
            accumulators[j].add(values[j]);
    }
    __device__ Moments of(int j) const { return accumulators[j].moments(); }
};

/* beta: as in through_relu.  */
template <int N> struct ProductsOf {
    typedef Products Sum;
    const STORED *delta, *x;
    const REAL *mean, *scale, *beta;
    Products sums[N] = {};

    __device__ ProductsOf(const STORED *delta, const STORED *x, const REAL *mean, const REAL *scale, const REAL *beta)
        : delta(delta), x(x), mean(mean), scale(scale), beta(beta) {}
    __device__ void add(const group<N> &at)
    {
        const auto d = through_relu(at, delta, x, mean, scale, beta), values = at.of(x);
        const auto centre = at.channels_of(mean);
        #pragma unroll
        for (int j = 0; j < N; j++)
            sums[j].join({d[j], d[j] * (values[j] - centre[j])});
    }
    __device__ Products of(int j) const { return sums[j]; }
};

#define BLOCK_CHANNELS 64  /* whose sums one block computes */

/* parts (channels, blocks): the sums of each block's part of the rows.  */
template <int N, class Taken> __device__ void sum_rows(Taken taken, int rows, int channels, typename Taken::Sum *parts)
{
    typedef typename Taken::Sum Sum;
    enum { ACROSS = BLOCK_CHANNELS / N, DOWN = THREADS / ACROSS, LENGTH = DOWN * BLOCK_CHANNELS };
    __shared__ Sum sums[LENGTH];
    const unsigned first = threadIdx.x % ACROSS * N, channel = blockIdx.x * BLOCK_CHANNELS + first, lane = threadIdx.x / ACROSS;
    const int start = (long long) rows * blockIdx.y / gridDim.y, stop = (long long) rows * (blockIdx.y + 1) / gridDim.y;
    if (channel < channels)
        #pragma unroll 2
        for (int row = start + lane; row < stop; row += DOWN)
            taken.add(group<N>{row * channels + channel, channel});
    #pragma unroll
    for (int j = 0; j < N; j++)
        sums[lane * BLOCK_CHANNELS + first + j] = taken.of(j);
    __syncthreads();
    const unsigned mine = blockIdx.x * BLOCK_CHANNELS + threadIdx.x;
    if (threadIdx.x >= BLOCK_CHANNELS || mine >= channels)
        return;
    Sum sum = {};
    for (int other = 0; other < DOWN; other++)
        sum.join(sums[other * BLOCK_CHANNELS + threadIdx.x]);
    parts[(size_t) mine * gridDim.y + blockIdx.y] = sum;
}

/* Call use(channel, sum) with the sum of the channel's parts, one block for each channel.  */
template <class Sum, class Use> __device__ void sum_parts(Use use, const Sum *parts, int count)
{
    __shared__ Sum sums[THREADS];
    const int channel = blockIdx.x;
    Sum sum = {};
    for (int part = threadIdx.x; part < count; part += THREADS)
        sum.join(parts[(size_t) channel * count + part]);
    sums[threadIdx.x] = sum;
    for (int half = THREADS / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half)
            sums[threadIdx.x].join(sums[threadIdx.x + half]);
    }
    if (threadIdx.x == 0)
        use(channel, sums[0]);
}

extern "C" __global__ void __launch_bounds__(THREADS) moments_parts(const STORED *x, int rows, int channels, REAL *parts)
{
    if (channels % GROUP == 0 && aligned(x))
        sum_rows<GROUP>(MomentsOf<GROUP>(x), rows, channels, (Moments *) parts);
    else
        sum_rows<1>(MomentsOf<1>(x), rows, channels, (Moments *) parts);
}

/* out (2, channels): mean and variance.  */
extern "C" __global__ void __launch_bounds__(THREADS) moments_total(const REAL *parts, int count, int channels, REAL *out)
{
    sum_parts([=](int channel, const Moments &sum) {
        out[channel] = sum.mean, out[channels + channel] = sum.squares / sum.count;
    }, (const Moments *) parts, count);
}

extern "C" __global__ void __launch_bounds__(THREADS) norm_sums_parts(
    const STORED *delta, const STORED *x, const REAL *mean, const REAL *scale, const REAL *beta, int rows, int channels,
    REAL *parts)
{
    if (channels % GROUP == 0 && aligned(delta, x, mean, scale, beta))
        sum_rows<GROUP>(ProductsOf<GROUP>(delta, x, mean, scale, beta), rows, channels, (Products *) parts);
    else
        sum_rows<1>(ProductsOf<1>(delta, x, mean, scale, beta), rows, channels, (Products *) parts);
}

/* out (2, channels): the sums of delta and of delta (x - mean).  */
extern "C" __global__ void __launch_bounds__(THREADS) norm_sums_total(const REAL *parts, int count, int channels, REAL *out)
{
    sum_parts([=](int channel, const Products &sum) {
        out[channel] = sum.plain, out[channels + channel] = sum.centred;
    }, (const Products *) parts, count);
}

/* out (3, channels): mean, 1 / standard deviation, gamma times that; unbiased: the factor of the unbiased variance.  */
extern "C" __global__ void __launch_bounds__(THREADS) norm_statistics(
    const REAL *parts, int count, int channels, const REAL *gamma, REAL *running_mean, REAL *running_var, REAL momentum,
    REAL epsilon, REAL unbiased, REAL *out)
{
    sum_parts([=](int channel, const Moments &sum) {
        const REAL variance = sum.squares / sum.count, inverse_std = 1 / sqrt(variance + epsilon);
        running_mean[channel] += momentum * (sum.mean - running_mean[channel]);
        running_var[channel] += momentum * (unbiased * variance - running_var[channel]);
        out[channel] = sum.mean, out[channels + channel] = inverse_std;
        out[2 * channels + channel] = gamma[channel] * inverse_std;
    }, (const Moments *) parts, count);
}

/* out (4, channels): the gradients of beta and gamma, and the slope and shift of norm_back.  */
extern "C" __global__ void __launch_bounds__(THREADS) norm_gradients(
    const REAL *parts, int count, int channels, const REAL *inverse_std, const REAL *scale, REAL rows, REAL *out)
{
    sum_parts([=](int channel, const Products &sum) {
        const REAL along = inverse_std[channel], factor = scale[channel] / rows;
        out[channel] = sum.plain, out[channels + channel] = sum.centred * along;
        out[2 * channels + channel] = -factor * along * along * sum.centred;
        out[3 * channels + channel] = -factor * sum.plain;
    }, (const Products *) parts, count);
}
