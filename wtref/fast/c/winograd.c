/* 3x3 convolutions of stride 1 and padding 1 by Winograd's F(4x4, 3x3) (Lavin and Gray, 2016).
 *
 * The output is computed in tiles of 4x4, each from 6x6 pixels of the input:  tile = A^T [(G k G^T) * (B^T d B)] A,
 * where * is a product for each of 36 frequencies, summed over channels: 36 matrix products instead of the 144
 * multiplications of a direct sum for the same 16 values.  A vector holds neighbouring channels.
 */

/* A row or column times B^T, A^T or G, and times A or G^T, which are used for gradients. */
INLINE void times_BT(const vec d[6], vec out[6]) {
    vec p = d[4] - 4 * d[2], q = d[3] - 4 * d[1], r = d[4] - d[2], s = 2 * (d[3] - d[1]);
    out[0] = 4 * d[0] - 5 * d[2] + d[4];
    out[1] = p + q, out[2] = p - q, out[3] = r + s, out[4] = r - s;
    out[5] = 4 * d[1] - 5 * d[3] + d[5];
}

INLINE void times_AT(const vec m[6], vec out[4]) {
    vec p = m[1] + m[2], q = m[1] - m[2], r = m[3] + m[4], s = m[3] - m[4];
    out[0] = m[0] + p + r, out[1] = q + 2 * s, out[2] = p + 4 * r, out[3] = q + 8 * s + m[5];
}

INLINE void times_A(const vec d[4], vec out[6]) {
    vec p = d[0] + d[2], q = d[1] + d[3], r = d[0] + 4 * d[2], s = 2 * d[1] + 8 * d[3];
    out[0] = d[0], out[1] = p + q, out[2] = p - q, out[3] = r + s, out[4] = r - s, out[5] = d[3];
}

INLINE void times_G(const vec k[3], vec out[6]) {
    vec p = -(k[0] + k[2]) / 6, q = k[1] / 6, r = k[0] / 24 + k[2] / 6, s = k[1] / 12;
    out[0] = k[0] / 4, out[1] = p - q, out[2] = p + q, out[3] = r + s, out[4] = r - s, out[5] = k[2];
}

INLINE void times_GT(const vec u[6], vec out[3]) {
    vec p = u[1] + u[2], q = u[2] - u[1], r = u[3] + u[4], s = u[3] - u[4];
    out[0] = u[0] / 4 - p / 6 + r / 24, out[1] = q / 6 + s / 12, out[2] = -p / 6 + r / 6 + u[5];
}

/* Transform a matrix on both sides: every column by `line`, then every row.  The tables hold the address of each element of
 * the two matrices; a vector is read at `x_offset` and written at `y_offset` from there. */
#define TRANSFORM(name, line, from, to)                                                                              \
    INLINE void name(REAL *const x[from * from], long x_offset, REAL *const y[to * to], long y_offset, int streaming) { \
        vec half[to][from], in[from], out[to];                                                                       \
        UNROLL for (int j = 0; j < from; j++) {                                                                      \
            UNROLL for (int i = 0; i < from; i++) in[i] = LOAD(x[i * from + j] + x_offset);                          \
            line(in, out);                                                                                           \
            UNROLL for (int i = 0; i < to; i++) half[i][j] = out[i];                                                 \
        }                                                                                                            \
        UNROLL for (int i = 0; i < to; i++) {                                                                        \
            line(half[i], out);                                                                                      \
            UNROLL for (int j = 0; j < to; j++) store_vector(y[i * to + j] + y_offset, out[j], streaming);           \
        }                                                                                                            \
    }
TRANSFORM(image_to_frequency, times_BT, 6, 6)
TRANSFORM(frequency_to_image, times_AT, 6, 4)
TRANSFORM(error_to_frequency, times_A, 4, 6)
TRANSFORM(kernel_to_frequency, times_G, 3, 6)
TRANSFORM(frequency_to_kernel, times_GT, 6, 3)

/* The table of a square matrix of which `first` is the first element. */
INLINE void strided_table(REAL *first, long row, long column, int size, REAL *at[]) {
    for (int k = 0; k < size * size; k++) at[k] = first + k / size * row + k % size * column;
}

/* The tiles of a batch of images (n, h, w), numbered consecutively. */
struct tiling { long n, h, w, down, across; };

static struct tiling tiling_of(long n, long h, long w) {
    return (struct tiling){n, h, w, (h + 3) / 4, (w + 3) / 4};
}

static long tile_count(struct tiling g) { return g.n * g.down * g.across; }

/* The square of pixels that belongs to a tile: the table of their addresses, and the offset at which to read or write. */
struct square { REAL *const *at; long offset; };

/* Square t of x (n, h, w, c), which begins `margin` pixels before its tile.  The table is `inner` if the square lies in the
 * image; otherwise it is written to `edge`, with `outside` in the place of pixels that do not exist. */
INLINE struct square square_of(long t, struct tiling g, const REAL *x, long c, int size, int margin, REAL *const inner[],
                               REAL *edge[], REAL *outside) {
    long inside = t % (g.down * g.across), image = t / (g.down * g.across) * g.h * g.w * c;
    long top = inside / g.across * 4 - margin, left = inside % g.across * 4 - margin;
    if (top >= 0 && left >= 0 && top + size <= g.h && left + size <= g.w)
        return (struct square){inner, image + (top * g.w + left) * c};
    for (int k = 0; k < size * size; k++) {
        long y = top + k / size, z = left + k % size;
        edge[k] = y >= 0 && z >= 0 && y < g.h && z < g.w ? (REAL *)x + image + (y * g.w + z) * c : outside;
    }
    return (struct square){edge, 0};
}

/* A buffer that is kept for later calls, so that large buffers neither cost page faults nor fragment the memory.  NULL without
 * memory. */
enum buffer { KERNELS, TILES, VECTORS, OUTSIDE, BUFFERS };
static REAL *scratch(enum buffer which, long size) {
    static _Thread_local REAL *buffer[BUFFERS];
    static _Thread_local long held[BUFFERS];
    if (size > held[which]) {
        free(buffer[which]);
        buffer[which] = allocate(size);
        held[which] = buffer[which] ? size : 0;
    }
    return buffer[which];
}

/* Transform tiles first..last of x (n, h, w, c) to v (36, ., c), with `step` elements between frequencies. */
#define TILES_TO_FREQUENCY(name, transform, size, margin)                                                  \
    static void name(const REAL *x, struct tiling g, long c, long first, long last, REAL *v, long step) {  \
        REAL *inner[size * size], *edge[size * size], *frequencies[36], *zeros = scratch(OUTSIDE, c);      \
        if (!zeros) return;                                                                                \
        memset(zeros, 0, c * sizeof(REAL));                                                                \
        strided_table((REAL *)x, g.w * c, c, size, inner);                                                 \
        strided_table(v, 6 * step, step, 6, frequencies);                                                  \
        for (long t = first; t < last; t++) {                                                              \
            struct square from = square_of(t, g, x, c, size, margin, inner, edge, zeros);                  \
            for (long i = 0; i < c; i += V) transform(from.at, from.offset + i, frequencies, (t - first) * c + i, 0); \
        }                                                                                                  \
    }
TILES_TO_FREQUENCY(image_tiles, image_to_frequency, 6, 1)
TILES_TO_FREQUENCY(error_tiles, error_to_frequency, 4, 0)

/* Transform m (36, ., c) to tiles first..last of out (n, h, w, c). */
static void tiles_to_image(REAL *m, long step, struct tiling g, long c, long first, long last, REAL *out) {
    REAL *inner[16], *edge[16], *frequencies[36], *unused = scratch(OUTSIDE, c);
    if (!unused) return;
    int streaming = use_streaming(out, g.n * g.h * g.w * c, c);
    strided_table(out, g.w * c, c, 4, inner);
    strided_table(m, 6 * step, step, 6, frequencies);
    for (long t = first; t < last; t++) {
        struct square to = square_of(t, g, out, c, 4, 0, inner, edge, unused);
        for (long i = 0; i < c; i += V) frequency_to_image(frequencies, (t - first) * c + i, to.at, to.offset + i, streaming);
    }
}

/* The kernel's element for (tap, input channel, output channel) is weights[tap s_tap + in s_in + out s_out]. */
struct kernel { const REAL *weights; long s_tap, s_in, s_out; };

INLINE vec strided(const REAL *p, long stride) {
    if (stride == 1) return LOAD(p);
    vec v;
    for (int l = 0; l < V; l++) v[l] = p[l * stride];
    return v;
}

/* U (36, panels of output channels, c_in, width). */
static void kernel_to_panels(struct kernel k, long c_in, long c_out, REAL *U) {
#pragma omp parallel for schedule(static) num_threads(thread_limit())
    for (long o = 0; o < c_out; o += V)
        for (long i = 0; i < c_in; i++) {
            vec taps[9];
            REAL *from[9], *to[36];
            for (int tap = 0; tap < 9; tap++)
                taps[tap] = strided(k.weights + tap * k.s_tap + i * k.s_in + o * k.s_out, k.s_out);
            long first = o / WIDE * WIDE, size = c_in * c_out;
            strided_table((REAL *)taps, 3 * V, V, 3, from);
            strided_table(U + first * c_in + i * panel_width(c_out, first) + o - first, 6 * size, size, 6, to);
            kernel_to_frequency(from, 0, to, 0, 0);
        }
}

/* Whether the transformed kernel is too large for the caches.  Then each thread computes some of the 36 products for a
 * large block of tiles, instead of all of them for a small block of its own. */
static int shared_tiles(long size) { return size * sizeof(REAL) > 1 << 22; }

/* The number of tiles in a block, whose frequencies should fit a core's cache, or the shared cache. */
static long block_of(long count, long channels, int shared) {
    long fit = (shared ? 1 << 24 : 1 << 19) / (36 * sizeof(REAL)) / channels, share = shared ? count : (count + threads - 1) / threads;
    return MAX(1, MIN(MAX(fit, 4 * ROWS) / ROWS * ROWS, share));
}

/* m (36, ., c_out) = v (36, ., c_in) U for `tiles` tiles; an item is a panel of output channels of one frequency. */
static void multiply_frequencies(const REAL *v, long v_step, const REAL *U, long tiles, long c_in, long c_out,
                                 struct range items, REAL *m, long m_step) {
    for (long item = items.first; item < items.last; item++) {
        long f = item / panels(c_out), o = item % panels(c_out) * WIDE, width = panel_width(c_out, o);
        panel_times((struct tile){.a = v + f * v_step, .b = U + f * c_in * c_out + o * c_in, .c = m + f * m_step + o,
                                  .runs = 1, .depth = c_in, .a_row = c_in, .a_depth = 1, .b_depth = width,
                                  .c_row = c_out, .columns = width},
                    tiles);
    }
}

/* out (n, h, w, c_out) = y (n, h, w, c_in) convolved with the kernel. */
static void winograd(struct tiling g, const REAL *y, long c_in, long c_out, struct kernel k, REAL *out) {
    long count = tile_count(g), size = 36 * c_in * c_out, items = 36 * panels(c_out);
    int shared = shared_tiles(size), groups = shared ? 1 : MIN(thread_limit(), count);
    long block = block_of(count, c_in + c_out, shared);
    long v_step = block * c_in + V, m_step = block * c_out + V;  /* + V: not all in one cache set */
    REAL *U = scratch(KERNELS, size), *vs = scratch(TILES, groups * 36 * (v_step + m_step));
    if (!U || !vs) return;
    REAL *ms = vs + groups * 36 * v_step;
    kernel_to_panels(k, c_in, c_out, U);
#pragma omp parallel num_threads(shared ? thread_limit() : groups)
    {
        struct range tiles = shared ? (struct range){0, count} : my_range(count);
        struct range my_items = shared ? my_range(items) : (struct range){0, items};
        REAL *v = vs + (shared ? 0 : thread_index() * 36 * v_step), *m = ms + (shared ? 0 : thread_index() * 36 * m_step);
        for (long first = tiles.first; first < tiles.last; first += block) {
            long last = MIN(first + block, tiles.last);
            struct range mine = shared ? my_range(last - first) : (struct range){0, last - first};
            image_tiles(y, g, c_in, first + mine.first, first + mine.last, v + mine.first * c_in, v_step);
            barrier(shared);
            multiply_frequencies(v, v_step, U, last - first, c_in, c_out, my_items, m, m_step);
            barrier(shared);
            tiles_to_image(m + mine.first * c_out, m_step, g, c_out, first + mine.first, first + mine.last, out);
        }
    }
}

/* dU (36, c_out, c_in) (+)= m^T v; an item is a strip of output channels of one frequency. */
static void add_frequencies(const REAL *m, long m_step, const REAL *v, long v_step, long depth, long c_in, long c_out,
                            struct range items, int add, REAL *dU) {
    long strips = (c_out + ROWS - 1) / ROWS;
    for (long item = items.first; item < items.last; item++) {
        long f = item / strips, o = item % strips * ROWS;
        for (long i = 0; i < c_in; i += WIDE)
            tile(&(struct tile){.a = m + f * m_step + o, .b = v + f * v_step + i, .c = dU + (f * c_out + o) * c_in + i,
                                .runs = 1, .depth = depth, .a_row = 1, .a_depth = c_out, .b_depth = c_in,
                                .c_row = c_in, .rows = MIN(ROWS, c_out - o), .columns = panel_width(c_in, i),
                                .add = add});
    }
}

/* gradient (c_out, 9 c_in) = the sum over the batch of delta y^T, by the adjoint of each step above.
 * Threads that have their own tiles sum into their own dU. */
static void winograd_gradient(struct tiling g, const REAL *y, const REAL *delta, long c_in, long c_out, REAL *gradient) {
    long count = tile_count(g), size = 36 * c_in * c_out, items = 36 * ((c_out + ROWS - 1) / ROWS);
    int shared = shared_tiles(4 * size), groups = shared ? 1 : MIN(thread_limit(), count);
    long block = block_of(count, c_in + c_out, shared), v_step = block * c_in + V, m_step = block * c_out + V;
    REAL *dUs = scratch(KERNELS, groups * size), *vs = scratch(TILES, groups * 36 * (v_step + m_step));
    if (!dUs || !vs) return;
    REAL *ms = vs + groups * 36 * v_step;
#pragma omp parallel num_threads(shared ? thread_limit() : groups)
    {
        struct range tiles = shared ? (struct range){0, count} : my_range(count);
        struct range my_items = shared ? my_range(items) : (struct range){0, items};
        long group = shared ? 0 : thread_index();
        REAL *v = vs + group * 36 * v_step, *m = ms + group * 36 * m_step, *dU = dUs + group * size;
        for (long first = tiles.first; first < tiles.last; first += block) {
            long last = MIN(first + block, tiles.last);
            struct range mine = shared ? my_range(last - first) : (struct range){0, last - first};
            image_tiles(y, g, c_in, first + mine.first, first + mine.last, v + mine.first * c_in, v_step);
            error_tiles(delta, g, c_out, first + mine.first, first + mine.last, m + mine.first * c_out, m_step);
            barrier(shared);
            add_frequencies(m, m_step, v, v_step, last - first, c_in, c_out, my_items, first > tiles.first, dU);
            barrier(shared);
        }
        int parts = shared ? 1 : team_size();
        barrier(1);
#pragma omp for schedule(static)
        for (long o = 0; o < c_out; o++)
            for (long i = 0; i < c_in; i += V) {
                vec sum[36];
                REAL *from[36], *to[9];
                for (int k = 0; k < 36; k++) {
                    sum[k] = LOAD(dUs + (k * c_out + o) * c_in + i);
                    for (int j = 1; j < parts; j++) sum[k] += LOAD(dUs + j * size + (k * c_out + o) * c_in + i);
                }
                strided_table((REAL *)sum, 6 * V, V, 6, from);
                strided_table(gradient + o * 9 * c_in + i, 3 * c_in, c_in, 3, to);
                frequency_to_kernel(from, 0, to, 0, 0);
            }
    }
}
