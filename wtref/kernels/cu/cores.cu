/* How a block of 256 threads multiplies a tile of A (TM rows) by a tile of B (TN rows), both WORDS words of k deep.

   A core says what a word is, how many VALUES of k it holds, and who of the threads has which sums:
   `accumulate` adds the product of two tiles to them, `each` shows them as pairs of neighbours in a row.  */

#define WORDS 16

struct Tf32 {
    enum { VALUES = 1 };
    static __device__ unsigned pack(const float *x) { return to_tf32(x[0]); }
    static __device__ void mma(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) { mma_tf32(d, a, b); }
};

struct Bf16 {
    enum { VALUES = 2 };
    static __device__ unsigned pack(const float *x) { return to_bf16x2(x[0], x[1]); }
    static __device__ void mma(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) { mma_bf16(d, a, b); }
};

/* Eight warps, DOWN x ACROSS of them, each with MT x NT of the tensor cores' 16 x 8 products.  */
template <class Kind, int TM_, int TN_> struct TensorCores {
    enum {
        TM = TM_, TN = TN_, VALUES = Kind::VALUES,
        ACROSS = TM == 2 * TN ? 2 : 4, DOWN = THREADS / 32 / ACROSS,
        MT = TM / DOWN / 16, NT = TN / ACROSS / 8
    };
    typedef unsigned word;
    float sums[MT][NT][4] = {};
    int row, column, g, t;

    __device__ TensorCores()
    {
        const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
        row = warp / ACROSS * MT * 16, column = warp % ACROSS * NT * 8, g = lane / 4, t = lane % 4;
    }

    static __device__ word pack(const float *x) { return Kind::pack(x); }

    template <class TileA, class TileB> __device__ void accumulate(const TileA &A, const TileB &B)
    {
        #pragma unroll
        for (int w = t; w < WORDS; w += 8) {
            unsigned a[MT][4], b[NT][2];
            #pragma unroll
            for (int i = 0; i < MT; i++) {
                const int r = row + 16 * i + g;
                a[i][0] = A.at(r, w), a[i][1] = A.at(r + 8, w), a[i][2] = A.at(r, w + 4), a[i][3] = A.at(r + 8, w + 4);
            }
            #pragma unroll
            for (int j = 0; j < NT; j++) {
                const int c = column + 8 * j + g;
                b[j][0] = B.at(c, w), b[j][1] = B.at(c, w + 4);
            }
            #pragma unroll
            for (int i = 0; i < MT; i++)
                #pragma unroll
                for (int j = 0; j < NT; j++)
                    Kind::mma(sums[i][j], a[i], b[j]);
        }
    }

    template <class F> __device__ void each(F f) const
    {
        #pragma unroll
        for (int i = 0; i < MT; i++)
            #pragma unroll
            for (int j = 0; j < NT; j++) {
                const int r = row + 16 * i + g, c = column + 8 * j + 2 * t;
                f(r, c, sums[i][j][0], sums[i][j][1]);
                f(r + 8, c, sums[i][j][2], sums[i][j][3]);
            }
    }
};

/* 16 x 16 threads, each with MI x NJ sums, in the numbers' own precision.  */
template <int TM_, int TN_> struct Arithmetic {
    enum { TM = TM_, TN = TN_, VALUES = 1, MI = TM / 16, NJ = TN / 16 };
    typedef REAL word;
    REAL sums[MI][NJ] = {};
    int down, across;

    __device__ Arithmetic() { down = threadIdx.x / 16, across = 2 * (threadIdx.x % 16); }

    static __device__ word pack(const REAL *x) { return x[0]; }

    template <class TileA, class TileB> __device__ void accumulate(const TileA &A, const TileB &B)
    {
        #pragma unroll
        for (int w = 0; w < WORDS; w++) {
            REAL a[MI], b[NJ];
            #pragma unroll
            for (int i = 0; i < MI; i++)
                a[i] = A.at(down + 16 * i, w);
            #pragma unroll
            for (int j = 0; j < NJ; j++)
                b[j] = B.at(across + 32 * (j / 2) + j % 2, w);
            #pragma unroll
            for (int i = 0; i < MI; i++)
                #pragma unroll
                for (int j = 0; j < NJ; j++)
                    sums[i][j] += a[i] * b[j];
        }
    }

    template <class F> __device__ void each(F f) const
    {
        #pragma unroll
        for (int i = 0; i < MI; i++)
            #pragma unroll
            for (int j = 0; j < NJ; j += 2)
                f(down + 16 * i, across + 16 * j, sums[i][j], sums[i][j + 1]);
    }
};

#if defined(TF32)
#define CORE(TM, TN) TensorCores<Tf32, TM, TN>
#elif defined(BF16)
#define CORE(TM, TN) TensorCores<Bf16, TM, TN>
#else
#define CORE(TM, TN) Arithmetic<TM, TN>
#endif
