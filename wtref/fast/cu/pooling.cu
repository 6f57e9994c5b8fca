/* Max pooling of images (N, H, W, C).  */

extern "C" __global__ void max_pool(const int *divisors, const STORED *y, int *winner, int size, STORED *out)
{
    const geometry g = *(const geometry *) divisors;
    EACH(i, size) {
        int c, column, row;
        const int image = g.out_h.split(g.out_w.split(g.c_in.split(i, c), column), row);
        REAL largest = -infinity();
        int first = 0;
        for (int place = 0; place < g.k_h * g.k_w; place++) {
            int across;
            const int down = g.k_w.split(place, across);
            const int x = pixel(image, row * g.s_h - g.p_h + down, column * g.s_w - g.p_w + across, c, g.h, g.w, g.c_in);
            if (x >= 0 && largest == largest && !((REAL) y[x] <= largest))  // NaN is kept
                largest = y[x], first = place;
        }
        out[i] = largest, winner[i] = first;
    }
}

/* Each pixel sums the errors of the windows of which it is the maximum.  */
extern "C" __global__ void max_pool_back(
    const int *divisors, const STORED *delta, const int *winner, int size, STORED *out)
{
    const geometry g = *(const geometry *) divisors;
    EACH(i, size) {
        int c, x, y;
        const int image = g.h.split(g.w.split(g.c_in.split(i, c), x), y);
        REAL sum = 0;
        for (int place = 0; place < g.k_h * g.k_w; place++) {
            int across, x_rest, y_rest;
            const int down = g.k_w.split(place, across);
            const int right = x + g.p_w - across, below = y + g.p_h - down;
            if (right < 0 || below < 0)
                continue;
            const int column = g.s_w.split(right, x_rest), row = g.s_h.split(below, y_rest);
            if (x_rest || y_rest || column >= g.out_w || row >= g.out_h)
                continue;
            const size_t window = (((size_t) image * g.out_h + row) * g.out_w + column) * g.c_in + c;
            if (winner[window] == place)
                sum += delta[window];
        }
        out[i] = sum;
    }
}
