/* Matrix products, as which the three passes of a convolution are computed as well.  Tiles of the factors are copied to
   shared memory, which holds STAGES of each: the next tiles are copied while one is multiplied.  */

#define STAGES 3
#define TILE_GAP 8  /* values between the rows of a result's tile, which avoid bank conflicts */

/* One thread's part in copying tiles: SHARE groups of GROUP neighbours in memory.  */
template <class Operand, int ROWS> struct Mover {
    typedef Tile<Operand, ROWS> tile;
    enum { ALONG_K = Operand::ALONG_K, ACROSS = tile::LINE / GROUP, SHARE = tile::LINES * ACROSS / BLOCK };
    typedef decltype(((Operand *) nullptr)->row(0)) Row;
    const Operand &operand;
    const int first, line, offset;  // the operand's first row; the line of the first group and the offset in each line
    Row rows[ALONG_K ? SHARE : 1];
    int k, run = 0, indices[SHARE];  // where the next tile begins; the tiles left in its run; its groups

    __device__ Mover(const Operand &operand, int first, int k)
        : operand(operand), first(first), k(k), line(threadIdx.x / ACROSS), offset(threadIdx.x % ACROSS * GROUP)
    {
        #pragma unroll
        for (int i = 0; i < (ALONG_K ? SHARE : 1); i++)
            rows[i] = operand.row(first + (ALONG_K ? line_of(i) : offset));
    }

    __device__ int line_of(int i) const { return line + BLOCK / ACROSS * i; }

    /* Start to copy this thread's part of the next tile.  */
    __device__ void fetch(char *to)
    {
        to += line * tile::PITCH + offset * sizeof(STORED);
        if (!operand.wide)
            fetch_one_by_one(to);
        else {
            if (run == 0)
                begin_run();
            #pragma unroll
            for (int i = 0; i < SHARE; i++) {
                start_copy(to + BLOCK / ACROSS * i * tile::PITCH, operand.start, indices[i]);
                indices[i] += operand.step();
            }
            run--;
        }
        k += DEPTH;
    }

    /* Compute the indices of the next tile, from which those of its run follow.  */
    __device__ void begin_run()
    {
        run = operand.run(k);
        const auto place = operand.place(k + (ALONG_K ? offset : line));
        #pragma unroll
        for (int i = 0; i < SHARE; i++)
            indices[i] = ALONG_K ? operand.at(rows[i], place) : operand.at(rows[0], i ? operand.place(k + line_of(i)) : place);
    }

    __device__ void fetch_one_by_one(char *to) const
    {
        #pragma unroll 1
        for (int i = 0; i < SHARE; i++, to += BLOCK / ACROSS * tile::PITCH)
            for (int j = 0; j < GROUP; j++) {
                const int m = first + (ALONG_K ? line_of(i) : offset + j);
                const int index = operand.at(operand.row(m), operand.place(k + (ALONG_K ? offset + j : line_of(i))));
                ((STORED *) to)[j] = index < 0 ? STORED(0) : operand.start[index];
            }
    }
};

/* Write a tile to the rows row_of(0), row_of(1), ... of out (., n), but to none that is negative, from the column `left` on.
   The tile remains in `shared`, from which neighbours are written together.  */
template <class T, class Core, class Row> __device__ void write_tile(
    const Core &core, T *out, Row row_of, int left, int n, char *shared)
{
    enum { PITCH = Core::TN + TILE_GAP, WIDTH = 16 / sizeof(T), ACROSS = Core::TN / WIDTH };
    T *const tile = (T *) shared;
    __syncthreads();  // all threads are done with the factors
    core.each([&](int row, int column, REAL x, REAL next) {
        *(neighbours<2, T> *) (tile + row * PITCH + column) = {T(x), T(next)};
    });
    __syncthreads();
    for (int i = threadIdx.x; i < Core::TM * ACROSS; i += BLOCK) {
        const int row = row_of(i / ACROSS), column = i % ACROSS * WIDTH, rest = n - left - column;
        if (row < 0 || rest <= 0)
            continue;
        const T *const from = tile + i / ACROSS * PITCH + column;
        T *const to = out + (size_t) row * n + left + column;
        if (n % WIDTH == 0)
            *(neighbours<WIDTH, T> *) to = *(const neighbours<WIDTH, T> *) from;
        else
            for (int j = 0; j < min(rest, (int) WIDTH); j++)
                to[j] = from[j];
    }
}

/* moments (n, tiles down): those of each column of the tile that write_tile left in `shared`.  */
template <class Core, class Out> __device__ void write_moments(
    const Out *tile, int top, int left, int m, int n, Moments *moments)
{
    const int column = threadIdx.x, rows = min(m - top, (int) Core::TM);
    if (column >= Core::TN || left + column >= n)
        return;
    Accumulator sum;
    for (int row = 0; row < rows; row++)
        sum.add(tile[row * (Core::TN + TILE_GAP) + column]);
    moments[(size_t) (left + column) * gridDim.x + blockIdx.x] = sum.moments();
}

/* out (m, n) = A B^T, both of depth k.  If k is cut into slices, one for each layer of the grid, each sum goes to its own
   (m, n) of `parts`, else parts is null.  moments: as in write_moments, or null.  */
template <class Core, class A, class B, class Out> __device__ void multiply(
    const A &a, const B &b, int m, int n, int k, REAL *parts, Out *out, Moments *moments = nullptr)
{
    extern __shared__ __align__(16) char shared[];
    enum { STAGE = TILE_BYTES(Core::TM + Core::TN) };
    const int top = blockIdx.x * Core::TM, left = blockIdx.y * Core::TN;
    const int tiles = (k + DEPTH - 1) / DEPTH, slices = gridDim.z, slice = blockIdx.z;
    const int start = (long long) tiles * slice / slices, stop = (long long) tiles * (slice + 1) / slices;
    Mover<A, Core::TM> move_a(a, top, start * DEPTH);
    Mover<B, Core::TN> move_b(b, left, start * DEPTH);
    Core core;

    const auto fetch = [&](int t, int stage) {
        if (t < stop) {
            move_a.fetch(shared + stage * STAGE);
            move_b.fetch(shared + stage * STAGE + TILE_BYTES(Core::TM));
        }
        end_batch_of_copies();
    };
    #pragma unroll
    for (int stage = 0; stage < STAGES - 1; stage++)
        fetch(start + stage, stage);
    for (int t = start, now = 0, free = STAGES - 1; t < stop; t++) {
        wait_for_copies<STAGES - 2>();
        __syncthreads();  // tile t is complete, and all threads are done with tile t - 1
        fetch(t + STAGES - 1, free);
        const char *stage = shared + now * STAGE;
        core.template accumulate<typename Mover<A, Core::TM>::tile, typename Mover<B, Core::TN>::tile>(
            stage, stage + TILE_BYTES(Core::TM));
        free = now, now = now + 1 < STAGES ? now + 1 : 0;
    }

    const auto row_of = [&](int row) { return a.result(top + row); };
    if (parts)
        write_tile(core, parts + (size_t) slice * m * n, row_of, left, n, shared);
    else
        write_tile(core, out, row_of, left, n, shared);
    if (moments)
        write_moments<Core>((const Out *) shared, top, left, m, n, moments);
}

#define PRODUCT(KERNEL, A_ALONG_K, B_ALONG_K, TM, TN, ROOM) \
extern "C" __global__ void __launch_bounds__(BLOCK, ROOM) KERNEL##_##TM##x##TN( \
    const STORED *a, int a_stride, const STORED *b, int b_stride, int m, int n, int k, REAL *parts, REAL *out) \
{ \
    const Matrix<A_ALONG_K> rows(a, a_stride, m, k); \
    multiply<CORE<TM, TN>>(rows, Matrix<B_ALONG_K>(b, b_stride, n, k), m, n, k, parts, out); \
}

#define CONVOLVE(TM, TN, ROOM) \
extern "C" __global__ void __launch_bounds__(BLOCK, ROOM) convolve_##TM##x##TN( \
    const int *divisors, const STORED *y, const STORED *W, REAL *moments, REAL *parts, STORED *out) \
{ \
    const geometry g = *(const geometry *) divisors; \
    const Matrix<true> rows(W, g.n_in(), g.c_out, g.n_in()); \
    multiply<CORE<TM, TN>>(Patches(y, g), rows, g.positions(), g.c_out, g.n_in(), parts, out, (Moments *) moments); \
}

#define CONVOLVE_GRADIENT(TM, TN, ROOM) \
extern "C" __global__ void __launch_bounds__(BLOCK, ROOM) convolve_gradient_##TM##x##TN( \
    const int *divisors, const STORED *delta, const STORED *y, REAL *parts, REAL *out) \
{ \
    const geometry g = *(const geometry *) divisors; \
    const Matrix<false> rows(delta, g.c_out, g.c_out, g.positions()); \
    multiply<CORE<TM, TN>>(rows, TransposedPatches(y, g), g.c_out, g.n_in(), g.positions(), parts, out); \
}

/* The blocks are divided evenly among the classes of pixels.  */
#define CONVOLVE_BACK(TM, TN, ROOM) \
extern "C" __global__ void __launch_bounds__(BLOCK, ROOM) convolve_back_##TM##x##TN( \
    const int *divisors, const STORED *delta, const STORED *B, REAL *parts, STORED *out) \
{ \
    const back_geometry &all = *(const back_geometry *) divisors; \
    const geometry g = all.g; \
    const int blocks = gridDim.x / all.count(), number = blockIdx.x / blocks; \
    const pixel_class part = all.classes[number]; \
    const ErrorPatches patches(delta, g, part, number * blocks * TM); \
    multiply<CORE<TM, TN>>(patches, Feedback(B, g, part), g.pixels(), g.c_in, part.depth(), parts, out); \
}

/* The letters after product_ tell whether a and b are contiguous along k, or along their rows (m).  ROOM: the blocks that
   a multiprocessor must have room for, which limits their registers, as in TILES of cuda_launches.py.  */
#define KERNELS(TM, TN, ROOM) \
    PRODUCT(product_kk, true, true, TM, TN, ROOM) \
    PRODUCT(product_km, true, false, TM, TN, ROOM) \
    PRODUCT(product_mk, false, true, TM, TN, ROOM) \
    PRODUCT(product_mm, false, false, TM, TN, ROOM) \
    CONVOLVE(TM, TN, ROOM) \
    CONVOLVE_GRADIENT(TM, TN, ROOM) \
    CONVOLVE_BACK(TM, TN, ROOM)

#ifdef LARGE_TILES
KERNELS(64, 64, 4)
KERNELS(128, 64, 3)
KERNELS(128, 128, 2)
#else
KERNELS(64, 64, 2)  // of double: with room for three, registers would spill
#endif

/* out (size) = the sum of parts (slices, size) over the slices.  */
template <class Out> __device__ void add_up(const REAL *parts, int slices, int size, Out *out)
{
    each_group(size, size, aligned(parts, out), [=](auto at) {
        auto sum = at.of(parts);
        for (int slice = 1; slice < slices; slice++) {
            const auto part = at.of(parts + (size_t) slice * size);
            for (int j = 0; j < at.COUNT; j++)
                sum.x[j] += part[j];
        }
        at.set(out, [&](int j) { return sum[j]; });
    });
}

extern "C" __global__ void add_slices(const REAL *parts, int slices, int size, REAL *out)
{
    add_up(parts, slices, size, out);
}

extern "C" __global__ void add_slices_stored(const REAL *parts, int slices, int size, STORED *out)
{
    add_up(parts, slices, size, out);
}

enum { ROW_VALUES = 32768 / sizeof(REAL) };

/* out (m, k) = (v before) H after, one row of v (m, n) per block, with the first n rows and k columns of H, of an order up to ROW_VALUES.  */
extern "C" __global__ void __launch_bounds__(THREADS) hadamard_product(
    const REAL *v, const REAL *before, const REAL *after, int n, int k, int order, REAL *out)
{
    __shared__ REAL x[ROW_VALUES];
    const size_t row = blockIdx.x;
    for (int j = threadIdx.x; j < order; j += THREADS)
        x[j] = j < n ? v[row * n + j] * before[j] : 0;
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
        out[row * k + j] = x[j] * after[j];
}
