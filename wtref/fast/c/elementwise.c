/* Element-wise passes over arrays: batch norm, phi, the optimizer.
 *
 * If the rows of c channels in batch norm are narrow, several are treated as one wide row of whole vectors, with mean,
 * scale and the other vectors repeated.  Sums over rows are computed in REAL within a strip and in double across strips.
 */
enum { STRIP = 64, SMALL = 8192 };

INLINE vec load_some(const REAL *p, long count) {
    if (count == V) return LOAD(p);  /* memcpy of a whole vector would go through the stack */
    vec v = {};
    memcpy(&v, p, count * sizeof(REAL));
    return v;
}

INLINE void store_some(REAL *p, vec v, long count, int streaming) {
    if (count == V)
        store_vector(p, v, streaming);
    else
        memcpy(p, &v, count * sizeof(REAL));
}

INLINE vec rectified(vec x, long wanted) { return wanted ? (vec)((lanes)x & ~(x < 0)) : x; }  /* NaN stays NaN */
INLINE vec where_positive(vec y, vec x) { return x * (vec)((lanes)((vec){} + 1) & (y > 0)); }  /* here too */

/* totals[j] = the sum of parts[0][j] to parts[number - 1][j] */
static void add_up(const double *parts, long number, long count, double *totals) {
    for (long j = 0; j < count; j++) {
        totals[j] = 0;
        for (long t = 0; t < number; t++) totals[j] += parts[t * count + j];
    }
}

/* (rows, c) as wide rows of `length` numbers; the last one may be shorter. */
struct wide { long c, length, rows, size; };

static struct wide wide_rows(long rows, long c) {
    long whole = c % V ? c * V : c, length = whole * MAX(1, 256 / whole);
    return (struct wide){c, length, (rows * c + length - 1) / length, rows * c};
}

/* The vector (c) repeated to the length of a wide row, in slot number `slot` of the scratch buffer. */
static const REAL *repeated(struct wide g, const REAL *vector, int slot) {
    if (g.c == g.length || !vector) return vector;
    REAL *all = scratch(VECTORS, 5 * g.length) + slot * g.length;
    for (long k = 0; k < g.length; k += g.c) memcpy(all + k, vector, g.c * sizeof(REAL));
    return all;
}

/* Run the code for every vector of row r, which has index i in the array and j in its row, and for the `count` numbers that
 * are left after the last whole vector. */
#define EACH_VECTOR(...)                                                    \
    {                                                                       \
        long i = r * g.length, j = 0, end = MIN(i + g.length, g.size);      \
        for (; i <= end - V; i += V, j += V) {                              \
            enum { count = V };                                             \
            __VA_ARGS__                                                     \
        }                                                                   \
        if (i < end) {                                                      \
            const long count = end - i;                                     \
            __VA_ARGS__                                                     \
        }                                                                   \
    }

#define EACH_ROW                                                             \
    _Pragma("omp parallel for schedule(static) num_threads(thread_limit())") \
    for (long r = 0; r < g.rows; r++)

/* Run the code for every vector of all rows; it adds to the sums `one` and `two` of its channels.  totals (2, c). */
#define TWO_SUMS(...)                                                                                       \
    int most = thread_limit();  /* parts of threads that do not run stay 0 */                               \
    double *parts = checked(calloc(most * 2 * c, sizeof(double)));                                          \
    double *totals = checked(malloc(2 * c * sizeof(double)));                                               \
    if (!parts || !totals) {                                                                                \
        free(parts), free(totals);                                                                          \
        return;                                                                                             \
    }                                                                                                       \
    _Pragma("omp parallel num_threads(most)") {                                                             \
        REAL *sums = allocate(2 * g.length);                                                                \
        double *part = parts + thread_index() * 2 * c;                                                      \
        struct range strips = my_range((g.rows + STRIP - 1) / STRIP);                                       \
        for (long strip = strips.first; sums && strip < strips.last; strip++) {                             \
            memset(sums, 0, 2 * g.length * sizeof(REAL));                                                   \
            for (long r = strip * STRIP; r < MIN((strip + 1) * STRIP, g.rows); r++) EACH_VECTOR({           \
                vec one = load_some(sums + j, count), two = load_some(sums + g.length + j, count);          \
                __VA_ARGS__                                                                                 \
                store_some(sums + j, one, count, 0), store_some(sums + g.length + j, two, count, 0);        \
            })                                                                                              \
            for (long k = 0; k < g.length; k += c)                                                          \
                for (long j = 0; j < c; j++) part[j] += sums[k + j], part[c + j] += sums[g.length + k + j]; \
        }                                                                                                   \
        free(sums);                                                                                         \
    }                                                                                                       \
    add_up(parts, most, 2 * c, totals);                                                                     \
    free(parts);

/* found (2, c): mean and variance of x (rows, c), computed from differences to the first row so that a large mean costs no
 * precision. */
void moments(const REAL *x, long rows, long c, REAL *found) {
    struct wide g = wide_rows(rows, c);
    if (!scratch(VECTORS, 5 * g.length)) return;
    const REAL *near = repeated(g, x, 0);
    REAL *mean = found, *variance = found + c;
    TWO_SUMS({
        vec d = load_some(x + i, count) - load_some(near + j, count);
        one += d, two += d * d;
    })
    for (long j = 0; j < c; j++) {
        double shift = totals[j] / rows, rest = totals[c + j] / rows - shift * shift;
        mean[j] = x[j] + shift, variance[j] = rest < 0 ? 0 : rest;
    }
    free(totals);
}

/* found (2, c): the sums over rows of delta and of delta (x - mean).  If beta is not NULL, a ReLU follows, and delta is 0
 * where its input was not positive. */
void norm_sums(const REAL *delta, const REAL *x, const REAL *mean, const REAL *scale, const REAL *beta, long rows, long c,
               REAL *found) {
    struct wide g = wide_rows(rows, c);
    if (!scratch(VECTORS, 5 * g.length)) return;
    const REAL *m = repeated(g, mean, 0), *s = repeated(g, scale, 1), *b = repeated(g, beta, 2);
    TWO_SUMS({
        vec centred = load_some(x + i, count) - load_some(m + j, count), d = load_some(delta + i, count);
        if (b) d = where_positive(centred * load_some(s + j, count) + load_some(b + j, count), d);
        one += d, two += d * centred;
    })
    for (long j = 0; j < 2 * c; j++) found[j] = totals[j];
    free(totals);
}

/* found (3, c): the mean of x, 1 / sqrt(variance + epsilon), and gamma times that; the running statistics are updated in place
 * as in plain.py. */
void norm_statistics(const REAL *x, const REAL *gamma, REAL *running_mean, REAL *running_var, REAL momentum, REAL epsilon,
                     long rows, long c, REAL *found) {
    int before = failures;
    moments(x, rows, c, found);
    if (failures != before) return;
    REAL *mean = found, *inverse_std = found + c, *scale = found + 2 * c;
    for (long j = 0; j < c; j++) {
        REAL variance = inverse_std[j], unbiased = variance * rows / MAX(rows - 1, 1);
        running_mean[j] += momentum * (mean[j] - running_mean[j]);
        running_var[j] += momentum * (unbiased - running_var[j]);
        inverse_std[j] = 1 / sqrt(variance + epsilon), scale[j] = gamma[j] * inverse_std[j];
    }
}

/* found (4, c): the gradients of beta and gamma, and the slope and shift of norm_back. */
void norm_gradients(const REAL *delta, const REAL *x, const REAL *mean, const REAL *inverse_std, const REAL *scale,
                    const REAL *beta, long rows, long c, REAL *found) {
    norm_sums(delta, x, mean, scale, beta, rows, c, found);
    REAL *delta_sum = found, *gamma = found + c, *slope = found + 2 * c, *shift = found + 3 * c;
    for (long j = 0; j < c; j++) {
        gamma[j] *= inverse_std[j];
        slope[j] = -scale[j] * inverse_std[j] * gamma[j] / rows, shift[j] = -scale[j] * delta_sum[j] / rows;
    }
}

/* out = (x - mean) scale + beta for each channel, + plus unless that is NULL; max(., 0) of that if rectify. */
void norm_forward(const REAL *x, const REAL *mean, const REAL *scale, const REAL *beta, const REAL *plus, long rectify,
                  long rows, long c, REAL *out) {
    struct wide g = wide_rows(rows, c);
    if (!scratch(VECTORS, 5 * g.length)) return;
    const REAL *m = repeated(g, mean, 0), *s = repeated(g, scale, 1), *b = repeated(g, beta, 2);
    int streaming = use_streaming(out, g.size, V);
    EACH_ROW EACH_VECTOR({
        vec y = (load_some(x + i, count) - load_some(m + j, count)) * load_some(s + j, count) + load_some(b + j, count);
        if (plus) y += load_some(plus + i, count);
        store_some(out + i, rectified(y, rectify), count, streaming);
    })
}

/* out = delta scale + (x - mean) slope + shift for each channel; beta as in norm_sums. */
void norm_back(const REAL *delta, const REAL *x, const REAL *mean, const REAL *scale, const REAL *slope, const REAL *shift,
               const REAL *beta, long rows, long c, REAL *out) {
    struct wide g = wide_rows(rows, c);
    if (!scratch(VECTORS, 5 * g.length)) return;
    const REAL *m = repeated(g, mean, 0), *s = repeated(g, scale, 1), *b = repeated(g, beta, 2);
    const REAL *along = repeated(g, slope, 3), *offset = repeated(g, shift, 4);
    int streaming = use_streaming(out, g.size, V);
    EACH_ROW EACH_VECTOR({
        vec centred = load_some(x + i, count) - load_some(m + j, count), d = load_some(delta + i, count), factor = load_some(s + j, count);
        if (b) d = where_positive(centred * factor + load_some(b + j, count), d);
        store_some(out + i, d * factor + centred * load_some(along + j, count) + load_some(offset + j, count), count, streaming);
    })
}

/* out[i] = the given vector, for all i < n */
#define EACH(...)                                                                            \
    int streaming = use_streaming(out, n, V);                                                \
    long whole = n - n % V;                                                                  \
    _Pragma("omp parallel for schedule(static) num_threads(n < SMALL ? 1 : thread_limit())") \
    for (long i = 0; i < whole; i += V) {                                                    \
        enum { count = V };                                                                  \
        store_some(out + i, __VA_ARGS__, count, streaming);                                  \
    }                                                                                        \
    if (whole < n) {                                                                         \
        const long i = whole, count = n - whole;                                             \
        store_some(out + i, __VA_ARGS__, count, 0);                                          \
    }

void relu(const REAL *a, long n, REAL *out) { EACH(rectified(load_some(a + i, count), 1)) }

void relu_back(const REAL *delta, const REAL *y, long n, REAL *out) {
    EACH(where_positive(load_some(y + i, count), load_some(delta + i, count)))
}

void add(const REAL *a, const REAL *b, long rectify, long n, REAL *out) {
    EACH(rectified(load_some(a + i, count) + load_some(b + i, count), rectify))
}

/* SGD as in optim.py, in one pass; w and its velocity v are updated in place. */
#define IN_PLACE                                                                                  \
    _Pragma("omp parallel for simd schedule(static) num_threads(n < SMALL ? 1 : thread_limit())") \
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

/* descend without decay for `count` arrays; each row of the table has the addresses of w, v and gradient, and their length. */
void descend_all(const long (*table)[4], long count, REAL lr, REAL momentum, long nesterov) {
    for (const long (*row)[4] = table; row < table + count; row++)
        descend((REAL *)(*row)[0], (REAL *)(*row)[1], (const REAL *)(*row)[2], (*row)[3], lr, momentum, 0, nesterov);
}
