/* What all kernels share: the types of numbers, and the loops of those that go over an array.

   NVRTC, which CuPy compiles with, has none of the host's headers, and so no INFINITY.  */

#define THREADS 256

__device__ float infinity() { return __int_as_float(0x7F800000); }

#ifdef BF16

/* The upper half of a float; it computes as the float that it is.  */
struct bf16 {
    unsigned short bits;

    bf16() = default;
    __device__ bf16(float x) : bits(to_bf16x2(x, 0)) {}
    __device__ operator float() const { return __int_as_float(bits << 16); }
};

#define STORED bf16
#else
#define STORED REAL
#endif

/* STORED: a number of an activity or an error, or a factor of a product, as it lies in memory.  REAL: any other.  */

#define GROUP (16 / (int) sizeof(STORED))  /* as many as one instruction reads */

template <int N, class T> struct __align__(N * sizeof(T) < 16 ? N * sizeof(T) : 16) neighbours {
    T x[N];

    __device__ const T &operator[](int j) const { return x[j]; }
};

template <class... T> __device__ bool aligned(const T *... x) { return (((size_t) x % 16 == 0) && ...); }

/* delta where y(0), y(1), ... > 0, else 0; NaN stays NaN.  */
template <int N, class F> __device__ neighbours<N, STORED> opened(neighbours<N, STORED> delta, F y)
{
    #pragma unroll
    for (int j = 0; j < N; j++)
        delta.x[j] = (REAL) delta[j] * (y(j) > 0);
    return delta;
}

/* N neighbours of an array of rows of channels: the first is number i, and of channel c.  */
template <int N> struct group {
    enum { COUNT = N };
    unsigned i, c;

    template <class T> __device__ neighbours<N, T> of(const T *x) const { return *(const neighbours<N, T> *) (x + i); }

    /* The same channels of an array that has one row.  */
    template <class T> __device__ neighbours<N, T> channels_of(const T *x) const
    {
        return *(const neighbours<N, T> *) (x + c);
    }

    /* out's are f(0), f(1), ...  */
    template <class T, class F> __device__ void set(T *out, F f) const
    {
        neighbours<N, T> values;
        #pragma unroll
        for (int j = 0; j < N; j++)
            values.x[j] = f(j);
        *(neighbours<N, T> *) (out + i) = values;
    }
};

/* delta where a ReLU behind batch norm let x through; all of it where there is none, and beta is null.  */
template <int N> __device__ neighbours<N, STORED> counted(
    const group<N> &at, const STORED *delta, const STORED *x, const REAL *mean, const REAL *scale, const REAL *beta)
{
    const auto d = at.of(delta);
    if (!beta)
        return d;
    const auto before = at.of(x);
    const auto centre = at.channels_of(mean), factor = at.channels_of(scale), least = at.channels_of(beta);
    return opened(d, [&](int j) { return (before[j] - centre[j]) * factor[j] + least[j]; });
}

#define EACH(i, size) \
    for (unsigned i = blockIdx.x * THREADS + threadIdx.x; i < (size); i += gridDim.x * THREADS)

/* use(group), all groups together `size` values in rows of channels; wide: may one be GROUP values, as far as their
   addresses go?  */
template <class Use> __device__ void each_group(unsigned size, unsigned channels, bool wide, Use use)
{
    const unsigned first = blockIdx.x * THREADS + threadIdx.x, step = gridDim.x * THREADS;
    if (wide && channels % GROUP == 0)
        for (unsigned i = first * GROUP; i < size; i += step * GROUP)
            use(group<GROUP>{i, i % channels});
    else
        for (unsigned i = first; i < size; i += step)
            use(group<1>{i, i % channels});
}
