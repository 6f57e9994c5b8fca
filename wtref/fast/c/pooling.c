/* Max pooling.  The positions in a window are numbered row by row; those outside the image are skipped. */

/* The index of the pixel at position (i, j) of the window (row, column); -1 outside the image. */
INLINE long under(struct geometry g, long row, long column, long i, long j) {
    long y = row * g.s_h + i - g.p_h, x = column * g.s_w + j - g.p_w;
    return y < 0 || x < 0 || y >= g.h || x >= g.w ? -1 : y * g.w + x;
}

/* out, winner (n, out_h, out_w, c): the maximum of each window, NaN if there is one, and its first position. */
void max_pool(const struct geometry *shape, const REAL *y, int *winner, REAL *out) {
    struct geometry g = *shape;
    long c = g.c_in;
#pragma omp parallel for schedule(static) num_threads(thread_limit())
    for (long item = 0; item < g.n * g.out_h * g.out_w; item++) {
        long n = item / (g.out_h * g.out_w), row = item / g.out_w % g.out_h, column = item % g.out_w;
        REAL *best = out + item * c;
        int *at = winner + item * c;
        for (long k = 0; k < c; k++) best[k] = -INFINITY, at[k] = 0;
        for (long place = 0; place < g.k_h * g.k_w; place++) {
            long pixel = under(g, row, column, place / g.k_w, place % g.k_w);
            if (pixel < 0) continue;
            const REAL *value = y + (n * g.h * g.w + pixel) * c;
            for (long k = 0; k < c; k++) {
                int better = best[k] == best[k] && !(value[k] <= best[k]);
                best[k] = better ? value[k] : best[k], at[k] = better ? place : at[k];
            }
        }
    }
}

/* dx (n, h, w, c): each delta (n, out_h, out_w, c) is added at the position of the maximum. */
void max_pool_back(const struct geometry *shape, const REAL *delta, const int *winner, REAL *dx) {
    struct geometry g = *shape;
    long c = g.c_in, windows = g.out_h * g.out_w;
#pragma omp parallel for schedule(static) num_threads(thread_limit())
    for (long n = 0; n < g.n; n++) {
        REAL *image = dx + n * g.h * g.w * c;
        memset(image, 0, g.h * g.w * c * sizeof(REAL));
        for (long window = 0; window < windows; window++)
            for (long place = 0; place < g.k_h * g.k_w; place++) {
                long pixel = under(g, window / g.out_w, window % g.out_w, place / g.k_w, place % g.k_w);
                if (pixel < 0) continue;
                const REAL *from = delta + (n * windows + window) * c;
                const int *at = winner + (n * windows + window) * c;
                for (long k = 0; k < c; k++) image[pixel * c + k] += at[k] == place ? from[k] : 0;
            }
    }
}
