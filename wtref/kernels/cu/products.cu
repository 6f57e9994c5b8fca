/* Products of matrices, of which convolutions are three kinds: tiles of the factors pass through shared memory, the
   next one on its way while the present one is multiplied.  */

/* ROWS rows of an operand, WORDS words deep, laid out so that neither the threads that write nor those that read meet
   in one bank.  */
template <class Core, class Operand, int ROWS> struct Tile {
    typedef typename Core::word word;
    enum { ALONG_K = Operand::ALONG_K, WIDTH = ALONG_K ? WORDS + 4 : ROWS + 8, LENGTH = ALONG_K ? ROWS : WORDS };
    struct __align__(16) quad { word x[4]; };
    word words[LENGTH * WIDTH];

    __device__ word at(int row, int w) const { return words[ALONG_K ? row * WIDTH + w : w * WIDTH + row]; }
    __device__ void put(int row, int w, const quad &q) { *(quad *) &words[ALONG_K ? row * WIDTH + w : w * WIDTH + row] = q; }
};

/* One thread's part in moving tiles: GROUPS groups of four words, neighbours in memory.  */
template <class Core, class Operand, int ROWS> struct Mover {
    enum { ALONG_K = Operand::ALONG_K, VALUES = Core::VALUES, GROUPS = ROWS * WORDS / 4 / THREADS };
    typedef Tile<Core, Operand, ROWS> tile;
    const Operand &operand;
    int first;
    typename Operand::Row rows[GROUPS];
    four fetched[GROUPS][VALUES];

    __device__ Mover(const Operand &operand, int first) : operand(operand), first(first)
    {
        #pragma unroll
        for (int i = 0; i < GROUPS; i++)
            rows[i] = operand.row(first + row_of(i));
    }

    __device__ int row_of(int i) const
    {
        const int group = threadIdx.x + THREADS * i;
        return ALONG_K ? group / (WORDS / 4) : 4 * (group % (ROWS / 4));
    }
    __device__ int word_of(int i) const
    {
        const int group = threadIdx.x + THREADS * i;
        return ALONG_K ? 4 * (group % (WORDS / 4)) : group / (ROWS / 4);
    }

    /* Read what this thread brings to tile number t.  */
    __device__ void fetch(int t)
    {
        #pragma unroll
        for (int i = 0; i < GROUPS; i++)
            #pragma unroll
            for (int v = 0; v < VALUES; v++)
                fetched[i][v] = neighbours(i, (t * WORDS + word_of(i)) * VALUES + (ALONG_K ? 4 * v : v));
    }

    __device__ four neighbours(int i, int k) const
    {
        four values = {};
        if (operand.wide) {
            const REAL *x = operand.at(rows[i], k);
            if (x)
                values = *(const four *) x;
            return values;
        }
        #pragma unroll
        for (int j = 0; j < 4; j++) {
            const REAL *x = ALONG_K ? operand.at(rows[i], k + j) : operand.at(operand.row(first + row_of(i) + j), k);
            if (x)
                values.x[j] = *x;
        }
        return values;
    }

    __device__ void put(tile &out) const
    {
        #pragma unroll
        for (int i = 0; i < GROUPS; i++) {
            typename tile::quad q;
            #pragma unroll
            for (int j = 0; j < 4; j++) {
                REAL x[VALUES];
                #pragma unroll
                for (int v = 0; v < VALUES; v++)
                    x[v] = ALONG_K ? fetched[i][(VALUES * j + v) / 4].x[(VALUES * j + v) % 4] : fetched[i][v].x[j];
                q.x[j] = Core::pack(x);
            }
            out.put(row_of(i), word_of(i), q);
        }
    }
};

/* out (m, n) = A B^T, both k deep.  With a grid of several layers each sums a slice of k into an (m, n) of its own.  */
template <class Core, class A, class B> __device__ void multiply(const A &a, const B &b, int m, int n, int k, REAL *out)
{
    __shared__ Tile<Core, A, Core::TM> tile_a[2];
    __shared__ Tile<Core, B, Core::TN> tile_b[2];
    const int top = blockIdx.x * Core::TM, left = blockIdx.y * Core::TN, depth = WORDS * Core::VALUES;
    const int tiles = (k + depth - 1) / depth, slices = gridDim.z, slice = blockIdx.z;
    const int start = (long long) tiles * slice / slices, stop = (long long) tiles * (slice + 1) / slices;
    Mover<Core, A, Core::TM> move_a(a, top);
    Mover<Core, B, Core::TN> move_b(b, left);
    Core core;

    if (start < stop) {
        move_a.fetch(start), move_b.fetch(start);
        move_a.put(tile_a[0]), move_b.put(tile_b[0]);
    }
    __syncthreads();
    for (int t = start, now = 0; t < stop; t++, now ^= 1) {
        const bool more = t + 1 < stop;
        if (more)
            move_a.fetch(t + 1), move_b.fetch(t + 1);
        core.accumulate(tile_a[now], tile_b[now]);
        if (more)
            move_a.put(tile_a[now ^ 1]), move_b.put(tile_b[now ^ 1]);
        __syncthreads();
    }

    out += (size_t) slice * m * n;
    core.each([&](int row, int column, REAL x, REAL next) {
        const int r = top + row, c = left + column;
        if (r < m && c < n)
            out[(size_t) r * n + c] = x;
        if (r < m && c + 1 < n)
            out[(size_t) r * n + c + 1] = next;
    });
}

#define PRODUCT(KERNEL, A_ALONG_K, B_ALONG_K, TM, TN) \
extern "C" __global__ void __launch_bounds__(THREADS) KERNEL##_##TM##x##TN( \
    const REAL *a, int a_stride, const REAL *b, int b_stride, int m, int n, int k, REAL *out) \
{ \
    multiply<CORE(TM, TN)>(Matrix<A_ALONG_K>(a, a_stride, m, k), Matrix<B_ALONG_K>(b, b_stride, n, k), m, n, k, out); \
}

#define CONVOLUTION(KERNEL, A, B, M, N, K, TM, TN) \
extern "C" __global__ void __launch_bounds__(THREADS) KERNEL##_##TM##x##TN( \
    const int *numbers, const REAL *a, const REAL *b, REAL *out) \
{ \
    const geometry g = *(const geometry *) numbers; \
    multiply<CORE(TM, TN)>(A, B, M, N, K, out); \
}

/* a and b along k, or along their rows: the second letter pair of the name.  */
#define KERNELS(TM, TN) \
    PRODUCT(product_kk, true, true, TM, TN) \
    PRODUCT(product_km, true, false, TM, TN) \
    PRODUCT(product_mk, false, true, TM, TN) \
    PRODUCT(product_mm, false, false, TM, TN) \
    CONVOLUTION(convolve, Patches(a, g), Matrix<true>(b, g.n_in(), g.c_out, g.n_in()), \
                g.positions(), g.c_out, g.n_in(), TM, TN) \
    CONVOLUTION(convolve_outer, Matrix<false>(a, g.c_out, g.c_out, g.positions()), Places(b, g), \
                g.c_out, g.n_in(), g.positions(), TM, TN) \
    CONVOLUTION(convolve_back, Echoes(a, g), Feedback(b, g), \
                g.pixels(), g.c_in, g.k_h * g.k_w * g.c_out, TM, TN)

KERNELS(64, 64)
#ifdef LARGE_TILES
KERNELS(128, 64)
KERNELS(128, 128)
#endif

/* out (size) = the sum of its slices, parts (slices, size).  */
extern "C" __global__ void add_slices(const REAL *parts, int slices, long long size, REAL *out)
{
    EACH(i, size) {
        REAL sum = 0;
        for (int slice = 0; slice < slices; slice++)
            sum += parts[slice * size + i];
        out[i] = sum;
    }
}

enum { HELD = 32768 / sizeof(REAL) };

/* out (m, k) = (v before) H after, a row of v (m, n) to each block; H, of an order up to HELD, repeated until it is (n, k).  */
extern "C" __global__ void __launch_bounds__(THREADS) hadamard_product(
    const REAL *v, const REAL *before, const REAL *after, int n, int k, int order, REAL *out)
{
    __shared__ REAL x[HELD];
    const size_t row = blockIdx.x;
    for (int j = threadIdx.x; j < order; j += THREADS) {
        REAL sum = 0;
        for (int i = j; i < n; i += order)
            sum += v[row * n + i] * before[i];
        x[j] = sum;
    }
    for (int half = 1; half < order; half *= 2) {
        __syncthreads();
        for (int pair = threadIdx.x; pair < order / 2; pair += THREADS) {
            const int low = 2 * pair - pair % half, high = low + half;
            const REAL a = x[low], b = x[high];
            x[low] = a + b, x[high] = a - b;
        }
    }
    __syncthreads();
    for (int j = threadIdx.x; j < k; j += THREADS)
        out[row * k + j] = x[j % order] * after[j];
}
