/* Passes over whole arrays: batch norm, phi, the optimizer.
 *
 * Batch norm's rows of c channels are taken several at a time where they are narrow: longer rows, of whole vectors, with
 * mean, scale and the like repeated.  Sums down the rows are taken in REAL within a strip and in double across strips.
 */
enum { STRIP = 64, SMALL = 8192 };

/* What follows for a whole vector, or for the few numbers left behind the last one: `count` of them. */
#define VECTOR_OR_LESS(left, ...)                                  \
    if ((left) >= V) {                                             \
        enum { count = V };                                        \
        __VA_ARGS__                                                \
    } else {                                                       \
        const long count = left;                                   \
        __VA_ARGS__                                                \
    }

INLINE vec some(const REAL *p, long count) {
    if (count == V) return LOAD(p);  /* a copy of a whole vector would go through the stack */
    vec v = {};
    memcpy(&v, p, count * sizeof(REAL));
    return v;
}

INLINE void put(REAL *p, vec v, long count, int past_caches) {
    if (count == V)
        put_whole(p, v, past_caches);
    else
        memcpy(p, &v, count * sizeof(REAL));
}

INLINE vec rectified(vec x, long wanted) { return wanted ? (vec)((lanes)x & ~(x < 0)) : x; }  /* NaN stays NaN */
INLINE vec where_positive(vec y, vec x) { return x * (vec)((lanes)((vec){} + 1) & (y > 0)); }  /* and here */

/* totals[j] = the sum of parts[0][j] to parts[number - 1][j] */
static void add_up(const double *parts, long number, long count, double *totals) {
    for (long j = 0; j < count; j++) {
        totals[j] = 0;
        for (long t = 0; t < number; t++) totals[j] += parts[t * count + j];
    }
}

/* (rows, c) as rows of `length` numbers; the last one may be shorter. */
struct wide { long c, length, rows, size; };

static struct wide wide_rows(long rows, long c) {
    long whole = c % V ? c * V : c, length = whole * MAX(1, 256 / whole);
    return (struct wide){c, length, (rows * c + length - 1) / length, rows * c};
}

/* The vector (c), as often as a wide row has it; kept in place number `slot`. */
static const REAL *repeated(struct wide g, const REAL *vector, int slot) {
    if (g.c == g.length || !vector) return vector;
    REAL *all = kept_room(VECTORS, 5 * g.length) + slot * g.length;
    for (long k = 0; k < g.length; k += g.c) memcpy(all + k, vector, g.c * sizeof(REAL));
    return all;
}

/* What follows for every vector of row r: it is at i in the array and at j in its row. */
#define EACH_VECTOR(...)                                                                       \
    for (long i = r * g.length, j = 0, end = MIN(i + g.length, g.size); i < end; i += V, j += V) \
        VECTOR_OR_LESS(end - i, __VA_ARGS__)

#define EACH_ROW                                                                               \
    _Pragma("omp parallel for schedule(static) num_threads(team())")                           \
    for (long r = 0; r < g.rows; r++)

/* The same for all rows, where what follows adds to sums of every channel, vectors `one` and `two`: totals (2, c). */
#define TWO_SUMS(...)                                                                          \
    int most = team();  /* parts of threads that are not there stay 0 */                       \
    double *parts = calloc(most * 2 * c, sizeof(double)), *totals = malloc(2 * c * sizeof(double)); \
    _Pragma("omp parallel num_threads(most)") {                                                \
        REAL *sums = space(2 * g.length);                                                      \
        double *part = parts + thread_index() * 2 * c;                                         \
        struct range strips = my_share((g.rows + STRIP - 1) / STRIP);                          \
        for (long strip = strips.first; strip < strips.last; strip++) {                        \
            memset(sums, 0, 2 * g.length * sizeof(REAL));                                      \
            for (long r = strip * STRIP; r < MIN((strip + 1) * STRIP, g.rows); r++) EACH_VECTOR({ \
                vec one = some(sums + j, count), two = some(sums + g.length + j, count);       \
                __VA_ARGS__                                                                    \
                put(sums + j, one, count, 0), put(sums + g.length + j, two, count, 0);         \
            })                                                                                 \
            for (long k = 0; k < g.length; k += c)                                             \
                for (long j = 0; j < c; j++) part[j] += sums[k + j], part[c + j] += sums[g.length + k + j]; \
        }                                                                                      \
        free(sums);                                                                            \
    }                                                                                          \
    add_up(parts, most, 2 * c, totals);                                                        \
    free(parts);

/* mean and variance, found (2, c), of x (rows, c), about the first row so that large means cost no digits */
void moments(const REAL *x, long rows, long c, REAL *found) {
    struct wide g = wide_rows(rows, c);
    const REAL *near = repeated(g, x, 0);
    REAL *mean = found, *variance = found + c;
    TWO_SUMS({
        vec d = some(x + i, count) - some(near + j, count);
        one += d, two += d * d;
    })
    for (long j = 0; j < c; j++) {
        double shift = totals[j] / rows, rest = totals[c + j] / rows - shift * shift;
        mean[j] = x[j] + shift, variance[j] = rest < 0 ? 0 : rest;
    }
    free(totals);
}

/* the sums over rows, found (2, c), of delta and of delta (x - mean); behind a ReLU, whose beta is not NULL, delta
 * counts only where that let x through */
void norm_sums(const REAL *delta, const REAL *x, const REAL *mean, const REAL *scale, const REAL *beta, long rows, long c,
               REAL *found) {
    struct wide g = wide_rows(rows, c);
    const REAL *m = repeated(g, mean, 0), *s = repeated(g, scale, 1), *b = repeated(g, beta, 2);
    TWO_SUMS({
        vec centred = some(x + i, count) - some(m + j, count), d = some(delta + i, count);
        if (b) d = where_positive(centred * some(s + j, count) + some(b + j, count), d);
        one += d, two += d * centred;
    })
    for (long j = 0; j < 2 * c; j++) found[j] = totals[j];
    free(totals);
}

/* out = (x - mean) scale + beta, by channel, plus that unless it is NULL; or the larger of the sum and 0 */
void norm_forward(const REAL *x, const REAL *mean, const REAL *scale, const REAL *beta, const REAL *plus, long rectify,
                  long rows, long c, REAL *out) {
    struct wide g = wide_rows(rows, c);
    const REAL *m = repeated(g, mean, 0), *s = repeated(g, scale, 1), *b = repeated(g, beta, 2);
    int past_caches = passes_caches(out, g.size, V);
    EACH_ROW EACH_VECTOR({
        vec y = (some(x + i, count) - some(m + j, count)) * some(s + j, count) + some(b + j, count);
        if (plus) y += some(plus + i, count);
        put(out + i, rectified(y, rectify), count, past_caches);
    })
}

/* out = delta scale + (x - mean) slope + shift, by channel; beta as above */
void norm_back(const REAL *delta, const REAL *x, const REAL *mean, const REAL *scale, const REAL *slope, const REAL *shift,
               const REAL *beta, long rows, long c, REAL *out) {
    struct wide g = wide_rows(rows, c);
    const REAL *m = repeated(g, mean, 0), *s = repeated(g, scale, 1), *b = repeated(g, beta, 2);
    const REAL *along = repeated(g, slope, 3), *offset = repeated(g, shift, 4);
    int past_caches = passes_caches(out, g.size, V);
    EACH_ROW EACH_VECTOR({
        vec centred = some(x + i, count) - some(m + j, count), d = some(delta + i, count), factor = some(s + j, count);
        if (b) d = where_positive(centred * factor + some(b + j, count), d);
        put(out + i, d * factor + centred * some(along + j, count) + some(offset + j, count), count, past_caches);
    })
}

/* out[i] = the vector that follows, for all i < n */
#define EACH(...)                                                                              \
    int past_caches = passes_caches(out, n, V);                                                       \
    _Pragma("omp parallel for schedule(static) num_threads(n < SMALL ? 1 : team())")           \
    for (long i = 0; i < n; i += V) VECTOR_OR_LESS(n - i, { put(out + i, __VA_ARGS__, count, past_caches); })

void relu(const REAL *a, long n, REAL *out) { EACH(rectified(some(a + i, count), 1)) }

void relu_back(const REAL *delta, const REAL *y, long n, REAL *out) {
    EACH(where_positive(some(y + i, count), some(delta + i, count)))
}

void add(const REAL *a, const REAL *b, long rectify, long n, REAL *out) {
    EACH(rectified(some(a + i, count) + some(b + i, count), rectify))
}

/* SGD as in optim.py, in one pass: w and its velocity v are changed in place */
#define IN_PLACE                                                                               \
    _Pragma("omp parallel for simd schedule(static) num_threads(n < SMALL ? 1 : team())")      \
    for (long i = 0; i < n; i++)

void descend(REAL *restrict w, REAL *restrict v, const REAL *restrict gradient, long n, REAL lr, REAL momentum,
             REAL decay, long nesterov) {
    if (nesterov)
        IN_PLACE {
            REAL g = gradient[i] + decay * w[i];
            v[i] = momentum * v[i] + g, w[i] -= lr * (g + momentum * v[i]);
        }
    else
        IN_PLACE {
            v[i] = momentum * v[i] + (gradient[i] + decay * w[i]), w[i] -= lr * v[i];
        }
}
