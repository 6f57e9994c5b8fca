/* Sums over rows, channel by channel: first each block's share of the rows, then the shares.

   A `Sum` begins as zeros and joins others.  */

/* Mean and sum of squared distances from it (Chan, Golub and LeVeque, 1979).  */
struct Moments {
    REAL count, mean, squares;

    __device__ void join(const Moments &other)
    {
        const REAL total = count + other.count;
        if (other.count == 0)
            return;
        const REAL between = other.mean - mean, part = other.count / total;
        mean += between * part;
        squares += other.squares + between * between * count * part;
        count = total;
    }
};

/* The sums of delta and of delta (x - mean).  */
struct Products {
    REAL plain, centred;

    __device__ void join(const Products &other) { plain += other.plain, centred += other.centred; }
};

/* The sums of LANES threads, STRIDE apart, joined in the first of them.  */
template <int LANES, int STRIDE, class Sum> __device__ Sum joined(Sum sum, int lane)
{
    __shared__ Sum sums[THREADS];
    sums[threadIdx.x] = sum;
    __syncthreads();
    if (lane == 0)
        for (int other = 1; other < LANES; other++)
            sum.join(sums[threadIdx.x + STRIDE * other]);
    return sum;
}

/* parts (channels, blocks): of each block's share of the rows; `add(sum, i)` takes in the value at x[i].  A block is 8
   threads deep and 32 channels wide.  */
template <class Sum, class Add> __device__ void sum_rows(Add add, int rows, int channels, Sum *parts)
{
    const int channel = blockIdx.x * 32 + threadIdx.x % 32, lane = threadIdx.x / 32;
    const int start = (long long) rows * blockIdx.y / gridDim.y, stop = (long long) rows * (blockIdx.y + 1) / gridDim.y;
    Sum sum = {};
    if (channel < channels) {
        #pragma unroll 2
        for (int row = start + lane; row < stop; row += 8)
            add(sum, (size_t) row * channels + channel);
    }
    sum = joined<8, 32>(sum, lane);
    if (channel < channels && lane == 0)
        parts[(size_t) channel * gridDim.y + blockIdx.y] = sum;
}

/* The sum of a channel's parts, one warp for each channel; `use(channel, sum)` has it.  */
template <class Sum, class Use> __device__ void sum_parts(Use use, const Sum *parts, int count, int channels)
{
    const int channel = blockIdx.x * 8 + threadIdx.x / 32, lane = threadIdx.x % 32;
    Sum sum = {};
    if (channel < channels)
        for (int part = lane; part < count; part += 32)
            sum.join(parts[(size_t) channel * count + part]);
    sum = joined<32, 1>(sum, lane);
    if (channel < channels && lane == 0)
        use(channel, sum);
}

extern "C" __global__ void __launch_bounds__(THREADS) moments_parts(const REAL *x, int rows, int channels, REAL *parts)
{
    sum_rows([=](Moments &sum, size_t i) {
        const REAL before = x[i] - sum.mean;
        sum.count += 1;
        sum.mean += before / sum.count;
        sum.squares += before * (x[i] - sum.mean);
    }, rows, channels, (Moments *) parts);
}

/* out (2, channels): mean and variance.  */
extern "C" __global__ void __launch_bounds__(THREADS) moments_total(const REAL *parts, int count, int channels, REAL *out)
{
    sum_parts([=](int channel, const Moments &sum) {
        out[channel] = sum.mean, out[channels + channel] = sum.squares / sum.count;
    }, (const Moments *) parts, count, channels);
}

/* y may be null: delta counts everywhere.  */
extern "C" __global__ void __launch_bounds__(THREADS) norm_sums_parts(
    const REAL *delta, const REAL *x, const REAL *mean, const REAL *y, int rows, int channels, REAL *parts)
{
    const int channel = blockIdx.x * 32 + threadIdx.x % 32;
    const REAL centre = channel < channels ? mean[channel] : 0;
    sum_rows([=](Products &sum, size_t i) {
        const REAL d = y && !(y[i] > 0) ? 0 : delta[i];
        sum.plain += d, sum.centred += d * (x[i] - centre);
    }, rows, channels, (Products *) parts);
}

/* out (2, channels): the sums of delta and of delta (x - mean).  */
extern "C" __global__ void __launch_bounds__(THREADS) norm_sums_total(const REAL *parts, int count, int channels, REAL *out)
{
    sum_parts([=](int channel, const Products &sum) {
        out[channel] = sum.plain, out[channels + channel] = sum.centred;
    }, (const Products *) parts, count, channels);
}
