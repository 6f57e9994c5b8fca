/* Products of matrices: the one register tile that all products share, and C = A B built from it.
 *
 * REAL is float or double; a vec is as many of them as one of the processor's registers holds.
 * Lengths and strides count elements.  Threads work on fixed, contiguous ranges: for one number of
 * threads results are the same bit for bit.  Where each thread sums up its own part of a batch,
 * their number changes the rounding.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif
#ifdef _OPENMP
#include <omp.h>
#endif
#ifdef __SSE2__
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
enum { VECTOR_BYTES = 64, ROWS = 8 };
#elif defined(__AVX__)
enum { VECTOR_BYTES = 32, ROWS = 4 };
#else
enum { VECTOR_BYTES = 16, ROWS = 4 };
#endif
enum { V = VECTOR_BYTES / sizeof(REAL), WIDE = 2 * V };

typedef REAL vec __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(REAL)), may_alias));
typedef __typeof__((vec){} == (vec){}) lanes;
#define LOAD(p) (*(const vec *)(p))
#define STORE(p, v) (*(vec *)(p) = (v))
#if defined(__AVX512F__)  /* STREAM: past the caches, to an aligned address */
#define STREAM(p, v) _mm512_stream_si512((void *)(p), (__m512i)(v))
#elif defined(__AVX__)
#define STREAM(p, v) _mm256_stream_si256((void *)(p), (__m256i)(v))
#elif defined(__SSE2__)
#define STREAM(p, v) _mm_stream_si128((void *)(p), (__m128i)(v))
#else
#define STREAM STORE
#endif
#define INLINE static inline __attribute__((always_inline))
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))

/* Does writing `size` numbers at `out`, in rows of `width`, leave little of them in the caches for who reads them next?
 * Then they are better written past the caches, which spares reading the memory first.  The barrier behind every
 * parallel loop waits for them. */
static int passes_caches(const REAL *out, long size, long width) {
    return size * sizeof(REAL) > 1 << 22 && (size_t)out % VECTOR_BYTES == 0 && width % V == 0;
}

INLINE void put_whole(REAL *p, vec v, int past_caches) {
    if (past_caches) STREAM(p, v); else STORE(p, v);
}

/* Freed memory stays with the process, as fresh memory costs a page fault every 4 KiB; but for arrays of 32 MiB
 * and more, which leave holes behind: compiled.py keeps those. */
void keep_memory(void) {
#ifdef __GLIBC__
    mallopt(M_MMAP_THRESHOLD, 1 << 25);
    mallopt(M_TRIM_THRESHOLD, 0x7fffffff);
#endif
}

static int thread_index(void) {
#ifdef _OPENMP
    return omp_get_thread_num();
#else
    return 0;
#endif
}

static int team_size(void) {
#ifdef _OPENMP
    return omp_get_num_threads();
#else
    return 1;
#endif
}

/* How many threads to ask for.  A parallel region may get fewer, as OMP_THREAD_LIMIT and other variables say: what each
 * thread has a part in is counted by team_size() inside of it.  A process forked from the owner has no other threads. */
static int threads = 1;
static pid_t owner;
static int team(void) { return getpid() == owner ? threads : 1; }

/* Asks for n threads from now on; returns how many there are. */
int use_threads(int n) {
    if (!owner) owner = getpid();
    threads = n;
#ifdef _OPENMP
    omp_set_dynamic(0);  /* their number would change with the load, and so would the rounding */
#endif
    int found = 1;
#pragma omp parallel num_threads(team())
#pragma omp single
    found = team_size();
    return threads = found;
}

/* This thread's part of `count` items. */
struct range { long first, last; };
static struct range my_share(long count) {
    return (struct range){count * thread_index() / team_size(), count * (thread_index() + 1) / team_size()};
}

/* Wait for the other threads of the team, where `needed`. */
static void meet(int needed) {
    if (needed) {
#pragma omp barrier
    }
}

/* Room to work in, with slack: a tile may read past the last row, never write. */
static REAL *space(long elements) {
    REAL *room = aligned_alloc(64, ((elements + 2 * WIDE) * sizeof(REAL) + 63) / 64 * 64);
    if (!room) {
        fputs("wtref: out of memory; a smaller batch needs less\n", stderr);
        abort();
    }
    return room;
}

/* c[i][j] (+)= sum over r < runs and k < depth of a[r a_run + i a_row + k a_depth] * b[r b_run + k b_depth + j] */
struct tile {
    const REAL *a, *b;
    REAL *c;
    long runs, depth, a_run, a_row, a_depth, b_run, b_depth, c_row;
    int rows, columns, add, past_caches;
};

INLINE void tile_of(const int rows, const int vectors, const int past_caches, const struct tile *t) {
    vec sum[ROWS][2] = {};
    for (long r = 0; r < t->runs; r++) {
        const REAL *a = t->a + r * t->a_run, *b = t->b + r * t->b_run;
        for (long k = 0; k < t->depth; k++, a += t->a_depth, b += t->b_depth) {
            vec b0 = LOAD(b), b1 = vectors > 1 ? LOAD(b + V) : b0;
#pragma GCC unroll 8
            for (int i = 0; i < rows; i++) {
                REAL value = a[i * t->a_row];
                sum[i][0] += value * b0;
                if (vectors > 1) sum[i][1] += value * b1;
            }
        }
    }
    const int whole = t->columns == vectors * V, add = t->add;
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++) {
        REAL *c = t->c + i * t->c_row;
        if (whole) {
#pragma GCC unroll 2
            for (int j = 0; j < vectors; j++) {
                if (add) sum[i][j] += LOAD(c + j * V);
                put_whole(c + j * V, sum[i][j], past_caches);
            }
        } else {
            vec row[2] = {sum[i][0], sum[i][1]};  /* a copy, so that the sums themselves stay in registers */
            const REAL *s = (const REAL *)row;
            for (int j = 0; j < t->columns; j++) c[j] = add ? c[j] + s[j] : s[j];
        }
    }
}

/* t->rows is from 1 to ROWS; each number of rows has a copy of its own, all of it in registers. */
#define CASE(rows) case rows: if (t->columns > V) tile_of(rows, 2, 0, t); else tile_of(rows, 1, 0, t); break;
static void tile(const struct tile *t) {
    switch (t->rows) {
        CASE(1) CASE(2) CASE(3) CASE(4)
#if defined(__AVX512F__)
        CASE(5) CASE(6) CASE(7) CASE(8)
#endif
    }
}

/* rows x columns of c: tile by tile down one panel of b, which is at most WIDE columns wide */
INLINE void panel_of(const int vectors, const int past_caches, struct tile t, long rows) {
    for (; rows >= ROWS; rows -= ROWS, t.a += ROWS * t.a_row, t.c += ROWS * t.c_row) tile_of(ROWS, vectors, past_caches, &t);
    t.rows = rows;
    if (rows) tile(&t);
}

static void panel_times(struct tile t, long rows) {
    if (t.columns > V)
        if (t.past_caches) panel_of(2, 1, t, rows); else panel_of(2, 0, t, rows);
    else
        if (t.past_caches) panel_of(1, 1, t, rows); else panel_of(1, 0, t, rows);
}

static long panels(long columns) { return (columns + WIDE - 1) / WIDE; }
static long panel_width(long columns, long first) { return columns - first > V ? WIDE : V; }

/* V vectors as a matrix, transposed: every pass moves the lines' highest bit to the end of the columns' numbers. */
INLINE void transpose(vec x[V]) {
    lanes low, high;
    for (int l = 0; l < V; l++) low[l] = l / 2 + l % 2 * V, high[l] = low[l] + V / 2;
#pragma GCC unroll 4
    for (int pass = V; pass > 1; pass /= 2) {
        vec y[V];
#pragma GCC unroll 16
        for (int i = 0; i < V; i++) y[i] = __builtin_shuffle(x[i / 2], x[i / 2 + V / 2], i % 2 ? high : low);
        memcpy(x, y, sizeof(y));
    }
}

/* b (depth, columns), strided, into a panel of contiguous rows, zeros behind the last column */
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
#pragma GCC unroll 16
            for (int i = 0; i < V; i++) x[i] = i < here ? LOAD(b + k + (j + i) * b_column) : (vec){};
            transpose(x);
#pragma GCC unroll 16
            for (int i = 0; i < V; i++) STORE(panel + (k + i) * width + j, x[i]);
        }
        for (; k < depth; k++)
            for (long i = 0; i < V; i++) panel[k * width + j + i] = i < here ? b[k * b_depth + (j + i) * b_column] : 0;
    }
}

/* c (m, n) = a (m, k) b (k, n); a and b by their strides, c contiguous.
 * Threads share c's rows where each gets many, as all other passes share an array's: what another core has just written
 * is slow to reach.  Few rows do not repay that each thread packs all of b; then threads share the longer side of c. */
void product(const REAL *a, long a_row, long a_depth, const REAL *b, long b_depth, long b_column, long m, long n,
             long k, REAL *c) {
    enum { DEPTH = 512, BLOCK = 16 * ROWS, MANY_ROWS = 128, SMALL_PRODUCT = 1 << 18 };
    long depth = (k + (k - 1) / DEPTH) / ((k - 1) / DEPTH + 1);
    int past_caches = depth == k && passes_caches(c, m * n, n);
#pragma omp parallel num_threads(m * n * k < SMALL_PRODUCT ? 1 : team())
    {
        struct range rows = {0, m}, columns = {0, panels(n)};
        if (m < MIN(n, MANY_ROWS * team_size())) columns = my_share(columns.last); else rows = my_share(m);
        REAL *packed = space((columns.last - columns.first) * WIDE * depth);
        for (long start = 0; start < k; start += depth) {
            long deep = MIN(depth, k - start);
            REAL *panel = packed;
            for (long j = columns.first * WIDE; j < MIN(columns.last * WIDE, n); j += WIDE, panel += WIDE * deep)
                pack(b + start * b_depth + j * b_column, b_depth, b_column, deep, MIN(WIDE, n - j), panel_width(n, j), panel);
            for (long i = rows.first; i < rows.last; i += BLOCK) {
                panel = packed;
                for (long j = columns.first * WIDE; j < MIN(columns.last * WIDE, n); j += WIDE, panel += WIDE * deep)
                    panel_times((struct tile){.a = a + i * a_row + start * a_depth, .b = panel, .c = c + i * n + j, .runs = 1,
                                              .depth = deep, .a_row = a_row, .a_depth = a_depth,
                                              .b_depth = panel_width(n, j), .c_row = n, .columns = MIN(panel_width(n, j), n - j),
                                              .add = start > 0, .past_caches = past_caches},
                                MIN(BLOCK, rows.last - i));
            }
        }
        free(packed);
    }
}

/* One factor of a Hadamard matrix: transforms the lowest bit of an element's number and moves it to the top, so that
 * after as many factors as there are bits every bit is transformed and back in its place. */
static void butterflies(const REAL *restrict x, long half, REAL *restrict y) {
    for (long j = 0; j < half; j++) {
        y[j] = x[2 * j] + x[2 * j + 1];
        y[j + half] = x[2 * j] - x[2 * j + 1];
    }
}

/* out = (v before) H after, row by row: v (m, n), out (m, k), and H, of that order, repeated until it is (n, k) */
void hadamard_product(const REAL *restrict v, const REAL *restrict before, const REAL *restrict after, long m, long n,
                      long k, long order, REAL *restrict out) {
#pragma omp parallel num_threads(team())
    {
        REAL *room = space(2 * order);
#pragma omp for schedule(static)
        for (long i = 0; i < m; i++) {
            REAL *x = room, *y = room + order;
            memset(x, 0, order * sizeof(REAL));
            for (long first = 0; first < n; first += order)
                for (long j = 0; j < MIN(order, n - first); j++) x[j] += v[i * n + first + j] * before[first + j];
            for (long done = 1; done < order; done *= 2) {
                butterflies(x, order / 2, y);
                REAL *last = x;
                x = y, y = last;
            }
            for (long first = 0; first < k; first += order)
                for (long j = 0; j < MIN(order, k - first); j++) out[i * k + first + j] = x[j] * after[first + j];
        }
        free(room);
    }
}
