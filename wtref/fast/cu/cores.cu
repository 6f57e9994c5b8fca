/* The product of a tile of A (TM rows) and a tile of B (TN rows), computed by a block of 128 threads.

   A core divides the sums among the threads: `accumulate` adds the product of two tiles to them, and `each` passes them on
   as pairs of neighbours in a row.  */

#define BLOCK 128
#define DEPTH (64 / (int) sizeof(STORED))  /* of a tile, in values of k: 64 bytes */

/* ROWS rows of an operand, with DEPTH values of k, in shared memory.  A line is contiguous, along k or along the rows, as
   in global memory.  The gap between two lines avoids bank conflicts of writes and reads.  */
template <class Operand, int ROWS> struct Tile {
    enum {
        ALONG_K = Operand::ALONG_K,
        LINES = ALONG_K ? ROWS : DEPTH, LINE = ALONG_K ? DEPTH : ROWS,
        GAP = ALONG_K || sizeof(STORED) != 4 ? 16 : 32,
        PITCH = LINE * sizeof(STORED) + GAP
    };

    static __device__ int place(int row, int k)
    {
        return ALONG_K ? row * PITCH + k * (int) sizeof(STORED) : k * PITCH + row * (int) sizeof(STORED);
    }
    static __device__ const STORED &at(const char *tile, int row, int k)
    {
        return *(const STORED *) (tile + place(row, k));
    }
};

#define TILE_BYTES(ROWS) ((ROWS) * 80)  /* at most, for a Tile */

#ifdef BF16
#define KIND_DEPTH 16  /* values of k in one instruction: 32 bytes of a line */
__device__ void mma(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) { mma_bf16(d, a, b); }
#else
#define KIND_DEPTH 8
__device__ void mma(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) { mma_tf32(d, a, b); }
#endif

/* Load this lane's words for mma from 16 rows and KIND_DEPTH values of k: those of one A, or of two B with 8 rows each.
   The two words of each B are neighbours, as mma takes them: in another order the compiler would move them.  */
template <class Tile, bool IS_A> __device__ void load_fragment(unsigned (&words)[4], const char *tile, int row, int k)
{
    const auto down = [](int matrix) { return 8 * (IS_A ? matrix % 2 : matrix / 2); };
    const auto along = [](int matrix) { return KIND_DEPTH / 2 * (IS_A ? matrix / 2 : matrix % 2); };
    const int lane = threadIdx.x % 32, low = lane % 8, matrix = lane / 8;
    if (Tile::ALONG_K)
        load_matrices(words, tile + Tile::place(row + low + down(matrix), k + along(matrix)));
#ifdef BF16
    else
        load_transposed(words, tile + Tile::place(row + down(matrix), k + low + along(matrix)));
#else
    else
        #pragma unroll
        for (int i = 0; i < 4; i++)
            words[i] = *(const unsigned *) (tile + Tile::place(row + lane / 4 + down(i), k + lane % 4 + along(i)));
    #pragma unroll
    for (int i = 0; i < 4; i++)
        words[i] = to_tf32(words[i]);
#endif
}

/* 2 x 2 warps, each with MT x NT of the 16 x 8 products of tensor cores.  */
template <int TM_, int TN_> struct TensorCores {
    enum { TM = TM_, TN = TN_, MT = TM / 32, NT = TN / 16 };
    float sums[MT][NT][4] = {};
    int row, column;

    __device__ TensorCores()
    {
        const int warp = threadIdx.x / 32;
        row = warp / 2 * MT * 16, column = warp % 2 * NT * 8;
    }

    template <class TileA, class TileB> __device__ void accumulate(const char *A, const char *B)
    {
        #pragma unroll
        for (int k = 0; k < DEPTH; k += KIND_DEPTH) {
            unsigned a[MT][4], b[NT / 2][4];
            #pragma unroll
            for (int i = 0; i < MT; i++)
                load_fragment<TileA, true>(a[i], A, row + 16 * i, k);
            #pragma unroll
            for (int j = 0; j < NT / 2; j++)
                load_fragment<TileB, false>(b[j], B, column + 16 * j, k);
            #pragma unroll
            for (int i = 0; i < MT; i++)
                #pragma unroll
                for (int j = 0; j < NT; j++) {
                    const unsigned words[2] = {b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]};
                    mma(sums[i][j], a[i], words);
                }
        }
    }

    template <class F> __device__ void each(F f) const
    {
        const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
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

/* 8 x 16 threads, each with MI x NJ sums, in REAL.  */
template <int TM_, int TN_> struct Arithmetic {
    enum { TM = TM_, TN = TN_, MI = TM / 8, NJ = TN / 16 };
    REAL sums[MI][NJ] = {};
    int down, across;

    __device__ Arithmetic() { down = threadIdx.x / 16, across = 2 * (threadIdx.x % 16); }

    template <class TileA, class TileB> __device__ void accumulate(const char *A, const char *B)
    {
        #pragma unroll 4
        for (int k = 0; k < DEPTH; k++) {
            REAL a[MI], b[NJ];
            #pragma unroll
            for (int i = 0; i < MI; i++)
                a[i] = TileA::at(A, down + 8 * i, k);
            #pragma unroll
            for (int j = 0; j < NJ; j++)
                b[j] = TileB::at(B, across + 32 * (j / 2) + j % 2, k);
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
                f(down + 8 * i, across + 16 * j, sums[i][j], sums[i][j + 1]);
    }
};

#if defined(TF32) || defined(BF16)
#define CORE TensorCores
#else
#define CORE Arithmetic
#endif
