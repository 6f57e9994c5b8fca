/* Matrix products: the register tile that all products share, and C = A B built from it.
 *
 * REAL is float or double; a vec is a vector register of them.  Lengths and strides count elements.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif
#ifdef __SSE2__
#include <immintrin.h>
#endif

/* The register tile has ROWS x 2 vectors: as many sums as keep the multipliers busy and fit the registers beside a row of b. */
#if defined(__AVX512F__)
#define VECTOR_BYTES 64
#define ROWS 8  /* 16 of 32 registers */
#elif defined(__AVX__)
#define VECTOR_BYTES 32
#define ROWS 6  /* 12 of 16 registers */
#elif defined(__aarch64__)
#define VECTOR_BYTES 16
#define ROWS 8  /* 16 of 32 registers */
#else
#define VECTOR_BYTES 16
#define ROWS 4  /* 8 of 16 registers: without fused multiply-add each product needs a register, too */
#endif
enum { V = VECTOR_BYTES / sizeof(REAL), WIDE = 2 * V };

typedef REAL vec __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(REAL)), may_alias));
typedef __typeof__((vec){} == (vec){}) lanes;
#define LOAD(p) (*(const vec *)(p))
#define STORE(p, v) (*(vec *)(p) = (v))
#if defined(__AVX512F__)  /* STREAM: a non-temporal store to an aligned address */
#define STREAM(p, v) _mm512_stream_si512((void *)(p), (__m512i)(v))
#elif defined(__AVX__)
#define STREAM(p, v) _mm256_stream_si256((void *)(p), (__m256i)(v))
#elif defined(__SSE2__)
#define STREAM(p, v) _mm_stream_si128((void *)(p), (__m128i)(v))
#else
#define STREAM STORE
#endif
#define INLINE static inline __attribute__((always_inline))
#ifdef __clang__  /* UNROLL the next loop, of at most 16 turns, so that its arrays are held in registers */
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))

/* Whether to write `size` numbers at `out`, in rows of `width`, by non-temporal stores.  These bypass the caches, which
 * could not hold so many numbers, and save reading the memory first.  The barrier after every parallel loop waits for them. */
static int use_streaming(const REAL *out, long size, long width) {
    return size * sizeof(REAL) > 1 << 22 && (size_t)out % VECTOR_BYTES == 0 && width % V == 0;
}

INLINE void store_vector(REAL *p, vec v, int streaming) {
    if (streaming) STREAM(p, v); else STORE(p, v);
}

/* Let the C library keep freed memory, because fresh memory costs a page fault every 4 KiB.  Arrays of 32 MiB and more
 * are excluded, because they would fragment it; the buffer pool of compiled.py reuses those. */
void keep_memory(void) {
#ifdef __GLIBC__
    mallopt(M_MMAP_THRESHOLD, 1 << 25);
    mallopt(M_TRIM_THRESHOLD, 0x7fffffff);
#endif
}

/* How often memory was lacking.  A function that increases it has no result, and has changed no array but its last. */
int failures = 0;

static void *checked(void *memory) {
    if (!memory) __atomic_fetch_add(&failures, 1, __ATOMIC_RELAXED);
    return memory;
}

/* Allocate a work buffer with some slack, because a tile may read (but not write) past the last row.  NULL without memory. */
static REAL *allocate(long elements) {
    return checked(aligned_alloc(64, ((elements + 2 * WIDE) * sizeof(REAL) + 63) / 64 * 64));
}

/* c[i][j] (+)= sum over r < runs and k < depth of a[r a_run + i a_row + k a_depth] * b[r b_run + k b_depth + j] */
struct tile {
    const REAL *a, *b;
    REAL *c;
    long runs, depth, a_run, a_row, a_depth, b_run, b_depth, c_row;
    int rows, columns, add, streaming;
};

INLINE void tile_of(const int rows, const int vectors, const int streaming, const struct tile *t) {
    vec sum[ROWS][2] = {};
    for (long r = 0; r < t->runs; r++) {
        const REAL *a = t->a + r * t->a_run, *b = t->b + r * t->b_run;
        for (long k = 0; k < t->depth; k++, a += t->a_depth, b += t->b_depth) {
            vec b0 = LOAD(b), b1 = vectors > 1 ? LOAD(b + V) : b0;
            UNROLL for (int i = 0; i < rows; i++) {
                REAL value = a[i * t->a_row];
                sum[i][0] += value * b0;
                if (vectors > 1) sum[i][1] += value * b1;
            }
        }
    }
    const int whole = t->columns == vectors * V, add = t->add;
    UNROLL for (int i = 0; i < rows; i++) {
        REAL *c = t->c + i * t->c_row;
        if (whole) {
            UNROLL for (int j = 0; j < vectors; j++) {
                if (add) sum[i][j] += LOAD(c + j * V);
                store_vector(c + j * V, sum[i][j], streaming);
            }
        } else {
            vec row[2] = {sum[i][0], sum[i][1]};  /* a copy, so that sum[] stays in registers */
            const REAL *s = (const REAL *)row;
            for (int j = 0; j < t->columns; j++) c[j] = add ? c[j] + s[j] : s[j];
        }
    }
}

/* t->rows is 1 to ROWS; the code for each number of rows is compiled separately, with all sums in registers. */
#define CASE(rows) case rows: if (t->columns > V) tile_of(rows, 2, 0, t); else tile_of(rows, 1, 0, t); break;
static void tile(const struct tile *t) {
    switch (t->rows) {
        CASE(1) CASE(2) CASE(3) CASE(4)
#if ROWS > 4
        CASE(5) CASE(6)
#endif
#if ROWS > 6
        CASE(7) CASE(8)
#endif
    }
}

/* Compute rows x columns of c tile by tile from one panel of b, which has at most WIDE columns. */
INLINE void panel_of(const int vectors, const int streaming, struct tile t, long rows) {
    for (; rows >= ROWS; rows -= ROWS, t.a += ROWS * t.a_row, t.c += ROWS * t.c_row) tile_of(ROWS, vectors, streaming, &t);
    t.rows = rows;
    if (rows) tile(&t);
}

static void panel_times(struct tile t, long rows) {
    if (t.columns > V)
        if (t.streaming) panel_of(2, 1, t, rows); else panel_of(2, 0, t, rows);
    else
        if (t.streaming) panel_of(1, 1, t, rows); else panel_of(1, 0, t, rows);
}

static long panels(long columns) { return (columns + WIDE - 1) / WIDE; }
static long panel_width(long columns, long first) { return columns - first > V ? WIDE : V; }

/* The vector a[first], b[first], a[first + 1], b[first + 1] and so on; first is 0 or V / 2. */
#ifdef __clang__  /* whose shuffle takes constants: 16 of them, of which the first V count */
#define PLACE(first, l) (first) + (l) % V / 2 + (l) % 2 * V
#define PLACES(first, l) PLACE(first, l), PLACE(first, l + 1), PLACE(first, l + 2), PLACE(first, l + 3)
#define SHUFFLE(first) __builtin_shufflevector(a, b, PLACES(first, 0), PLACES(first, 4), PLACES(first, 8), PLACES(first, 12))
INLINE vec alternate(vec a, vec b, int first) {
    REAL all __attribute__((vector_size(16 * sizeof(REAL)))) = first ? SHUFFLE(V / 2) : SHUFFLE(0);
    return *(vec *)&all;
}
#else
INLINE vec alternate(vec a, vec b, int first) {
    lanes places;
    for (int l = 0; l < V; l++) places[l] = first + l / 2 + l % 2 * V;
    return __builtin_shuffle(a, b, places);
}
#endif

/* Transpose a matrix of V vectors: each pass moves the highest bit of the row index to the lowest of the column index. */
INLINE void transpose(vec x[V]) {
    UNROLL for (int pass = V; pass > 1; pass /= 2) {
        vec y[V];
        UNROLL for (int i = 0; i < V; i++) y[i] = alternate(x[i / 2], x[i / 2 + V / 2], i % 2 * V / 2);
        memcpy(x, y, sizeof(y));
    }
}

/* Copy b (depth, columns), strided, into a panel of contiguous rows, with zeros after the last column. */
static void pack(const REAL *b, long b_depth, long b_column, long depth, long columns, long width, REAL *panel) {
    if (b_column == 1) {
        if (columns < width) memset(panel, 0, depth * width * sizeof(REAL));
        for (long k = 0; k < depth; k++) memcpy(panel + k * width, b + k * b_depth, columns * sizeof(REAL));
        return;
    }
    for (long j = 0; j < width; j += V) {
        long k = 0, here = MAX(0, MIN(V, columns - j));
        for (; b_depth == 1 && k + V <= depth; k += V) {
            vec x[V];
            UNROLL for (int i = 0; i < V; i++) x[i] = i < here ? LOAD(b + k + (j + i) * b_column) : (vec){};
            transpose(x);
            UNROLL for (int i = 0; i < V; i++) STORE(panel + (k + i) * width + j, x[i]);
        }
        for (; k < depth; k++)
            for (long i = 0; i < V; i++) panel[k * width + j + i] = i < here ? b[k * b_depth + (j + i) * b_column] : 0;
    }
}

/* c (m, n) = a (m, k) b (k, n); a and b with strides, c contiguous.
 * Threads divide the rows of c if there are many: other passes divide arrays in the same way, so each core reads what it
 * has written itself.  With few rows it does not pay that each thread packs all of b, so threads divide the columns; with
 * very few it does not pay to pack b at all where whole panels of its rows can be read in place. */
void product(const REAL *a, long a_row, long a_depth, const REAL *b, long b_depth, long b_column, long m, long n,
             long k, REAL *c) {
    enum { DEPTH = 512, BLOCK = 16 * ROWS, MANY_ROWS = 128, SMALL_PRODUCT = 1 << 18 };
    long depth = (k + (k - 1) / DEPTH) / ((k - 1) / DEPTH + 1);
    int streaming = depth == k && use_streaming(c, m * n, n), in_place = b_column == 1 && m <= 2 * ROWS;
#pragma omp parallel num_threads(m * n * k < SMALL_PRODUCT ? 1 : thread_limit())
    {
        struct range rows = {0, m}, columns = {0, panels(n)};
        if (m < MIN(n, MANY_ROWS * team_size())) columns = my_range(columns.last); else rows = my_range(m);
        REAL *packed = allocate((columns.last - columns.first) * WIDE * depth);
        for (long start = 0; packed && start < k; start += depth) {
            long deep = MIN(depth, k - start);
            REAL *panel = packed;
            for (long j = columns.first * WIDE; j < MIN(columns.last * WIDE, n); j += WIDE, panel += WIDE * deep)
                if (!in_place || n - j < WIDE)
                    pack(b + start * b_depth + j * b_column, b_depth, b_column, deep, MIN(WIDE, n - j), panel_width(n, j), panel);
            for (long i = rows.first; i < rows.last; i += BLOCK) {
                panel = packed;
                for (long j = columns.first * WIDE; j < MIN(columns.last * WIDE, n); j += WIDE, panel += WIDE * deep) {
                    int here = in_place && n - j >= WIDE;
                    panel_times((struct tile){.a = a + i * a_row + start * a_depth, .b = here ? b + start * b_depth + j : panel,
                                              .c = c + i * n + j, .runs = 1, .depth = deep, .a_row = a_row, .a_depth = a_depth,
                                              .b_depth = here ? b_depth : panel_width(n, j), .c_row = n,
                                              .columns = MIN(panel_width(n, j), n - j), .add = start > 0, .streaming = streaming},
                                MIN(BLOCK, rows.last - i));
                }
            }
        }
        free(packed);
    }
}

/* One factor of a Hadamard matrix: it transforms the lowest bit of the index and moves it to the top, so after as many
 * factors as there are bits each bit is transformed and in its original position. */
static void butterflies(const REAL *restrict x, long half, REAL *restrict y) {
    for (long j = 0; j < half; j++) {
        y[j] = x[2 * j] + x[2 * j + 1];
        y[j + half] = x[2 * j] - x[2 * j + 1];
    }
}

/* out = (v before) H after for each row: v (m, n), out (m, k), and the first n rows and k columns of H, of the given order. */
void hadamard_product(const REAL *restrict v, const REAL *restrict before, const REAL *restrict after, long m, long n,
                      long k, long order, REAL *restrict out) {
#pragma omp parallel num_threads(thread_limit())
    {
        REAL *buffer = allocate(2 * order);
#pragma omp for schedule(static)
        for (long i = 0; i < m; i++) {
            if (!buffer) continue;
            REAL *x = buffer, *y = buffer + order;
            memset(x, 0, order * sizeof(REAL));
            for (long j = 0; j < n; j++) x[j] = v[i * n + j] * before[j];
            for (long done = 1; done < order; done *= 2) {
                butterflies(x, order / 2, y);
                REAL *last = x;
                x = y, y = last;
            }
            for (long j = 0; j < k; j++) out[i * k + j] = x[j] * after[j];
        }
        free(buffer);
    }
}
