/* Convolutions: forward through W, the gradient of W, and backward through B.
 *
 * The values of a patch are ordered (k_h, k_w, C), as in plain.py.  In a channels-last image each of the k_h rows of a
 * patch is contiguous, so tiles read patches in place.
 */
struct geometry { long n, h, w, c_in, out_h, out_w, c_out, k_h, k_w, s_h, s_w, p_h, p_w; };

static int suits_winograd(struct geometry g) {
    return g.k_h == 3 && g.k_w == 3 && g.s_h == 1 && g.s_w == 1 && g.p_h == 1 && g.p_w == 1 && g.c_in % V == 0 &&
           g.c_out % V == 0 && (g.h + 3) / 4 * ((g.w + 3) / 4) * 16 <= 2 * g.h * g.w;
}

static int is_product(struct geometry g) {
    return g.k_h == 1 && g.k_w == 1 && g.s_h == 1 && g.s_w == 1 && g.p_h == 0 && g.p_w == 0;
}

static long padded_w(struct geometry g) { return g.w + 2 * g.p_w; }

/* Copy rows first..last of the padded image to `to`. */
static void padded_rows(struct geometry g, const REAL *image, long first, long last, REAL *to) {
    long line = padded_w(g) * g.c_in, margin = g.p_w * g.c_in;
    for (long y = first; y < last; y++, to += line) {
        if (y < g.p_h || y >= g.h + g.p_h) {
            memset(to, 0, line * sizeof(REAL));
            continue;
        }
        memset(to, 0, margin * sizeof(REAL));
        memcpy(to + margin, image + (y - g.p_h) * g.w * g.c_in, g.w * g.c_in * sizeof(REAL));
        memset(to + line - margin, 0, margin * sizeof(REAL));
    }
}

/* The kernel packed into panels of output channels: (panels, k_h k_w c_in, width). */
static REAL *packed_kernel(struct geometry g, struct kernel k) {
    long taps = g.k_h * g.k_w;
    REAL *packed = allocate(taps * g.c_in * panels(g.c_out) * WIDE);
    if (!packed) return NULL;
#pragma omp parallel for schedule(static) num_threads(thread_limit())
    for (long o = 0; o < g.c_out; o += WIDE) {
        long width = panel_width(g.c_out, o);
        for (long tap = 0; tap < taps; tap++)
            pack(k.weights + tap * k.s_tap + o * k.s_out, k.s_in, k.s_out, g.c_in, MIN(width, g.c_out - o), width,
                 packed + taps * g.c_in * o + tap * g.c_in * width);
    }
    return packed;
}

/* The number of output rows that are computed from one padded strip of the input. */
static long strip_of(struct geometry g, long bytes, long bytes_per_row) {
    return MAX(1, MIN(bytes / bytes_per_row, g.out_h));
}

static long strip_size(struct geometry g, long strip) {
    return ((strip - 1) * g.s_h + g.k_h) * padded_w(g) * g.c_in;
}

/* The input rows of output rows first..last of image n: in place, or copied with padding to `buffer`. */
static const REAL *strip_rows(struct geometry g, const REAL *y, long n, long first, long last, REAL *buffer) {
    const REAL *image = y + n * g.h * g.w * g.c_in;
    if (g.p_h == 0 && g.p_w == 0 && g.k_w * g.c_in % V == 0) return image + first * g.s_h * g.w * g.c_in;
    padded_rows(g, image, first * g.s_h, (last - 1) * g.s_h + g.k_h, buffer);
    return buffer;
}

static void direct(struct geometry g, const REAL *y, struct kernel k, REAL *out) {
    REAL *packed = packed_kernel(g, k);
    if (!packed) return;
    long line = padded_w(g) * g.c_in, run = g.k_w * g.c_in, taps = g.k_h * g.k_w;
    long strip = strip_of(g, 1 << 17, line * g.s_h * sizeof(REAL)), strips = (g.out_h + strip - 1) / strip;
    int streaming = use_streaming(out, g.n * g.out_h * g.out_w * g.c_out, g.c_out);
#pragma omp parallel num_threads(thread_limit())
    {
        REAL *buffer = allocate(strip_size(g, strip));
#pragma omp for schedule(static)
        for (long item = 0; item < g.n * strips; item++) {
            if (!buffer) continue;
            long n = item / strips, first = item % strips * strip, last = MIN(first + strip, g.out_h);
            const REAL *rows = strip_rows(g, y, n, first, last, buffer);
            for (long o = 0; o < g.c_out; o += WIDE)
                for (long row = first; row < last; row++) {
                    long width = panel_width(g.c_out, o);
                    panel_times((struct tile){.a = rows + (row - first) * g.s_h * line, .b = packed + taps * g.c_in * o,
                                              .c = out + (n * g.out_h + row) * g.out_w * g.c_out + o, .runs = g.k_h,
                                              .depth = run, .a_run = line, .a_row = g.s_w * g.c_in, .a_depth = 1,
                                              .b_run = run * width, .b_depth = width, .c_row = g.c_out,
                                              .columns = MIN(width, g.c_out - o), .streaming = streaming},
                                g.out_w);
                }
        }
        free(buffer);
    }
    free(packed);
}

static void correlate(struct geometry g, const REAL *y, struct kernel k, REAL *out) {
    if (suits_winograd(g))
        winograd(tiling_of(g.n, g.h, g.w), y, g.c_in, g.c_out, k, out);
    else if (is_product(g))
        product(y, g.c_in, 1, k.weights, k.s_in, k.s_out, g.n * g.h * g.w, g.c_out, g.c_in, out);
    else
        direct(g, y, k, out);
}

/* out (n, out_h, out_w, c_out) = W (c_out, k_h k_w c_in) applied to the patches of y. */
void convolve(const struct geometry *g, const REAL *y, const REAL *W, long W_row, long W_column, REAL *out) {
    correlate(*g, y, (struct kernel){W, g->c_in * W_column, W_column, W_row}, out);
}

/* Stride > 1: B delta of each output position is added to its patch, in dx itself or in a padded image. */
static void scatter(struct geometry g, const REAL *delta, struct kernel k, REAL *dx) {
    long taps = g.k_h * g.k_w, line = padded_w(g) * g.c_in, image = (g.h + 2 * g.p_h) * line;
    int padded = g.p_h > 0 || g.p_w > 0;
    struct geometry each_tap = g;
    each_tap.c_in = g.c_out, each_tap.c_out = g.c_in;
    REAL *packed = packed_kernel(each_tap, k);
    if (!packed) return;
#pragma omp parallel num_threads(thread_limit())
    {
        REAL *buffer = allocate(padded ? image : 0);
#pragma omp for schedule(static)
        for (long n = 0; n < g.n; n++) {
            if (!buffer) continue;
            REAL *sums = padded ? buffer : dx + n * image;
            memset(sums, 0, image * sizeof(REAL));
            for (long tap = 0; tap < taps; tap++)
                for (long c = 0; c < g.c_in; c += WIDE)
                    for (long row = 0; row < g.out_h; row++) {
                        long width = panel_width(g.c_in, c), i = tap / g.k_w, j = tap % g.k_w;
                        panel_times((struct tile){.a = delta + (n * g.out_h + row) * g.out_w * g.c_out,
                                                  .b = packed + (taps * c + tap * width) * g.c_out,
                                                  .c = sums + (row * g.s_h + i) * line + j * g.c_in + c, .runs = 1,
                                                  .depth = g.c_out, .a_row = g.c_out, .a_depth = 1, .b_depth = width,
                                                  .c_row = g.s_w * g.c_in, .columns = MIN(width, g.c_in - c), .add = 1},
                                    g.out_w);
                    }
            for (long y = 0; padded && y < g.h; y++)
                memcpy(dx + (n * g.h + y) * g.w * g.c_in, sums + (y + g.p_h) * line + g.p_w * g.c_in,
                       g.w * g.c_in * sizeof(REAL));
        }
        free(buffer);
    }
    free(packed);
}

/* dx (n, h, w, c_in): B (k_h k_w c_in, c_out) applied to delta (n, out_h, out_w, c_out) and summed over patches.
 * At stride 1 this is a convolution with the kernel rotated by 180 degrees. */
void convolve_back(const struct geometry *g, const REAL *delta, const REAL *B, long B_row, long B_column, REAL *dx) {
    long s_tap = g->c_in * B_row, last = g->k_h * g->k_w - 1;
    if (g->s_h > 1 || g->s_w > 1 || g->p_h >= g->k_h || g->p_w >= g->k_w) {
        scatter(*g, delta, (struct kernel){B, s_tap, B_column, B_row}, dx);
        return;
    }
    struct geometry turned = {g->n, g->out_h, g->out_w, g->c_out, g->h, g->w, g->c_in, g->k_h, g->k_w, 1, 1,
                              g->k_h - 1 - g->p_h, g->k_w - 1 - g->p_w};
    correlate(turned, delta, (struct kernel){B + last * s_tap, -s_tap, B_column, B_row}, dx);
}

/* gradient (+)= the sum of delta y^T over `count` output rows; the rows of y are padded. */
static void add_gradient(struct geometry g, const REAL *y, const REAL *delta, long count, int add, REAL *gradient) {
    long line = padded_w(g) * g.c_in, run = g.k_w * g.c_in;
    for (long o = 0; o < g.c_out; o += ROWS)
        for (long i = 0; i < g.k_h; i++)
            for (long k = 0; k < run; k += WIDE)
                tile(&(struct tile){.a = delta + o, .b = y + i * line + k, .c = gradient + (o * g.k_h + i) * run + k,
                                    .runs = count, .depth = g.out_w, .a_run = g.out_w * g.c_out, .a_row = 1,
                                    .a_depth = g.c_out, .b_run = g.s_h * line, .b_depth = g.s_w * g.c_in,
                                    .c_row = g.k_h * run, .rows = MIN(ROWS, g.c_out - o),
                                    .columns = MIN(panel_width(run, k), run - k), .add = add});
}

/* Each thread sums over its own strips. */
static void direct_gradient(struct geometry g, const REAL *y, const REAL *delta, REAL *gradient) {
    long line = padded_w(g) * g.c_in, size = g.c_out * g.k_h * g.k_w * g.c_in;
    long strip = strip_of(g, 1 << 17, (line * g.s_h + g.out_w * g.c_out) * sizeof(REAL));
    long strips = (g.out_h + strip - 1) / strip;
    int most = MIN(thread_limit(), g.n * strips);
    REAL *parts = allocate(most * size);
    if (!parts) return;
#pragma omp parallel num_threads(most)
    {
        REAL *buffer = allocate(strip_size(g, strip)), *part = parts + thread_index() * size;
        struct range mine = my_range(g.n * strips);
        for (long item = mine.first; buffer && item < mine.last; item++) {
            long n = item / strips, first = item % strips * strip, last = MIN(first + strip, g.out_h);
            const REAL *rows = strip_rows(g, y, n, first, last, buffer);
            add_gradient(g, rows, delta + (n * g.out_h + first) * g.out_w * g.c_out, last - first, item > mine.first, part);
        }
        free(buffer);
        int count = team_size();
        barrier(1);
#pragma omp for schedule(static)
        for (long j = 0; j < size; j++) {
            REAL sum = parts[j];
            for (int t = 1; t < count; t++) sum += parts[t * size + j];
            gradient[j] = sum;
        }
    }
    free(parts);
}

/* gradient (c_out, k_h k_w c_in): the sum over batch and positions of delta y^T. */
void convolve_gradient(const struct geometry *g, const REAL *delta, const REAL *y, REAL *gradient) {
    if (suits_winograd(*g))
        winograd_gradient(tiling_of(g->n, g->h, g->w), y, delta, g->c_in, g->c_out, gradient);
    else if (is_product(*g))
        product(delta, 1, g->c_out, y, g->c_in, 1, g->c_out, g->c_in, g->n * g->h * g->w, gradient);
    else
        direct_gradient(*g, y, delta, gradient);
}
