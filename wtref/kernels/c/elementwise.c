/* Passes over whole arrays: batch norm, phi, the optimizer.  Rows of c channels, each a contiguous run.
 *
 * Sums down the rows are taken in strips, in REAL within a strip and in double across strips.
 */
enum { STRIP = 64, SMALL = 8192 };

/* A thread's share of rows, in whole strips. */
static void my_rows(long rows, long *first, long *last) {
    long strips = (rows + STRIP - 1) / STRIP;
    *first = MIN(rows, strips * thread_index() / team_size() * STRIP);
    *last = MIN(rows, strips * (thread_index() + 1) / team_size() * STRIP);
}

/* totals[j] = the sum over threads of parts[thread][j] */
static void add_up(const double *parts, long count, double *totals) {
    for (long j = 0; j < count; j++) {
        totals[j] = 0;
        for (long t = 0; t < threads; t++) totals[j] += parts[t * count + j];
    }
}

/* The strips' common part: two sums per channel, of terms that the argument adds for row r, channel j. */
#define TWO_SUMS(...)                                                                          \
    double *parts = calloc(threads * 2 * c, sizeof(double)), *totals = malloc(2 * c * sizeof(double)); \
    _Pragma("omp parallel num_threads(team())") {                                              \
        long first, last;                                                                      \
        my_rows(rows, &first, &last);                                                          \
        double *part = parts + thread_index() * 2 * c;                                         \
        REAL *one = space(2 * c), *two = one + c;                                              \
        for (long strip = first; strip < last; strip += STRIP) {                               \
            memset(one, 0, 2 * c * sizeof(REAL));                                              \
            for (long r = strip; r < MIN(strip + STRIP, last); r++) {                          \
                __VA_ARGS__                                                                    \
            }                                                                                  \
            for (long j = 0; j < 2 * c; j++) part[j] += one[j];                                \
        }                                                                                      \
        free(one);                                                                             \
    }                                                                                          \
    add_up(parts, 2 * c, totals);                                                              \
    free(parts);

/* mean and variance, found (2, c), of x (rows, c), about the first row so that large means cost no digits */
void moments(const REAL *restrict x, long rows, long c, REAL *found) {
    REAL *mean = found, *variance = found + c;
    TWO_SUMS({
        const REAL *restrict xr = x + r * c;
        for (long j = 0; j < c; j++) {
            REAL d = xr[j] - x[j];
            one[j] += d, two[j] += d * d;
        }
    })
    for (long j = 0; j < c; j++) {
        double shift = totals[j] / rows;
        mean[j] = x[j] + shift, variance[j] = MAX(totals[c + j] / rows - shift * shift, 0);
    }
    free(totals);
}

/* delta where a ReLU behind batch norm let x through; all of it where there is none, and beta is NULL */
INLINE REAL counted(REAL delta, REAL centred, REAL scale, const REAL *beta, long j) {
    return !beta || centred * scale + beta[j] > 0 ? delta : 0;
}

/* the sums over rows, found (2, c), of delta and of delta (x - mean), where delta counts */
void norm_sums(const REAL *restrict delta, const REAL *restrict x, const REAL *restrict mean,
               const REAL *restrict scale, const REAL *restrict beta, long rows, long c, REAL *found) {
    TWO_SUMS({
        const REAL *restrict xr = x + r * c, *restrict dr = delta + r * c;
        for (long j = 0; j < c; j++) {
            REAL centred = xr[j] - mean[j], d = counted(dr[j], centred, scale[j], beta, j);
            one[j] += d, two[j] += d * centred;
        }
    })
    for (long j = 0; j < c; j++) found[j] = totals[j], found[c + j] = totals[c + j];
    free(totals);
}

/* out = (x - mean) scale + beta, by channel, plus that unless it is NULL; or the larger of the sum and 0 */
void norm_forward(const REAL *restrict x, const REAL *restrict mean, const REAL *restrict scale,
                  const REAL *restrict beta, const REAL *restrict plus, long rectify, long rows, long c,
                  REAL *restrict out) {
    REAL least = rectify ? 0 : -INFINITY;
#pragma omp parallel for schedule(static) num_threads(team())
    for (long r = 0; r < rows; r++)
        for (long j = 0; j < c; j++) {
            REAL y = (x[r * c + j] - mean[j]) * scale[j] + beta[j] + (plus ? plus[r * c + j] : 0);
            out[r * c + j] = y < least ? least : y;
        }
}

/* out = delta scale + (x - mean) slope + shift, by channel, where delta counts */
void norm_back(const REAL *restrict delta, const REAL *restrict x, const REAL *restrict mean,
               const REAL *restrict scale, const REAL *restrict slope, const REAL *restrict shift,
               const REAL *restrict beta, long rows, long c, REAL *restrict out) {
#pragma omp parallel for schedule(static) num_threads(team())
    for (long r = 0; r < rows; r++)
        for (long j = 0; j < c; j++) {
            REAL centred = x[r * c + j] - mean[j], d = counted(delta[r * c + j], centred, scale[j], beta, j);
            out[r * c + j] = d * scale[j] + centred * slope[j] + shift[j];
        }
}

#define EACH(n)                                                                                  \
    _Pragma("omp parallel for simd schedule(static) num_threads(n < SMALL ? 1 : team())")        \
    for (long i = 0; i < n; i++)

void relu(const REAL *restrict a, long n, REAL *restrict y) { EACH(n) y[i] = a[i] < 0 ? 0 : a[i]; }

void relu_back(const REAL *restrict delta, const REAL *restrict y, long n, REAL *restrict out) {
    EACH(n) out[i] = y[i] > 0 ? delta[i] : 0;
}

void add(const REAL *restrict a, const REAL *restrict b, long rectify, long n, REAL *restrict out) {
    REAL least = rectify ? 0 : -INFINITY;
    EACH(n) {
        REAL y = a[i] + b[i];
        out[i] = y < least ? least : y;
    }
}

/* SGD as in optim.py, in one pass: w and its velocity v are changed in place */
void descend(REAL *restrict w, REAL *restrict v, const REAL *restrict gradient, long n, REAL lr, REAL momentum,
             REAL decay, long nesterov) {
    if (nesterov)
        EACH(n) {
            REAL g = gradient[i] + decay * w[i];
            v[i] = momentum * v[i] + g, w[i] -= lr * (g + momentum * v[i]);
        }
    else
        EACH(n) {
            v[i] = momentum * v[i] + (gradient[i] + decay * w[i]), w[i] -= lr * v[i];
        }
}
