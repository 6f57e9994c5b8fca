/* Number types and the loops of element-wise kernels.

   NVRTC, the compiler that CuPy uses, has none of the host's headers and therefore no INFINITY.  */

#define THREADS 256

__device__ float infinity() { return __int_as_float(0x7F800000); }

#ifdef BF16

/* The upper half of a float, converted to float for arithmetic.  */
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

/* STORED is the type in memory of activities, errors and the factors of products; REAL is that of all other numbers.  */

#define GROUP (16 / (int) sizeof(STORED))  /* the numbers that one instruction reads */

template <int N, class T> struct __align__(N * sizeof(T) < 16 ? N * sizeof(T) : 16) neighbours {
    T x[N];

    __device__ const T &operator[](int j) const { return x[j]; }
};

template <class... T> __device__ bool aligned(const T *... x) { return (((size_t) x % 16 == 0) && ...); }

/* delta where y(0), y(1), ... > 0, else 0; NaN stays NaN.  */
template <int N, class F> __device__ neighbours<N, STORED> masked(neighbours<N, STORED> delta, F y)
{
    #pragma unroll
    for (int j = 0; j < N; j++)
        delta.x[j] = (REAL) delta[j] * (y(j) > 0);
    return delta;
}

/* N neighbours in an array (rows, channels): the first has index i and channel c.  */
template <int N> struct group {
    enum { COUNT = N };
    unsigned i, c;

    template <class T> __device__ neighbours<N, T> of(const T *x) const { return *(const neighbours<N, T> *) (x + i); }

    /* The same channels of a vector (channels).  */
    template <class T> __device__ neighbours<N, T> channels_of(const T *x) const
    {
        return *(const neighbours<N, T> *) (x + c);
    }

    /* Set those of out to f(0), f(1), ...  */
    template <class T, class F> __device__ void set(T *out, F f) const
    {
        neighbours<N, T> values;
        #pragma unroll
        for (int j = 0; j < N; j++)
            values.x[j] = f(j);
        *(neighbours<N, T> *) (out + i) = values;
    }
};

/* delta before the ReLU that follows batch norm; delta itself if beta is null, when there is no ReLU.  */
template <int N> __device__ neighbours<N, STORED> through_relu(
    const group<N> &at, const STORED *delta, const STORED *x, const REAL *mean, const REAL *scale, const REAL *beta)
{
    const auto d = at.of(delta);
    if (!beta)
        return d;
    const auto before = at.of(x);
    const auto centre = at.channels_of(mean), factor = at.channels_of(scale), least = at.channels_of(beta);
    return masked(d, [&](int j) { return (before[j] - centre[j]) * factor[j] + least[j]; });
}

#define EACH(i, size) \
    for (unsigned i = blockIdx.x * THREADS + threadIdx.x; i < (size); i += gridDim.x * THREADS)

/* Call use(group) for `size` values in rows of channels; wide: whether the addresses allow groups of GROUP values.  */
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
