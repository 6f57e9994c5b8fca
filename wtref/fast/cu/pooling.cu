/* Max pooling of images (N, H, W, C).  */

/* The largest value in the window of each of N neighbours, and its place.  NaN is kept.  */
template <int N> __device__ void pool(const geometry &g, const group<N> &at, const STORED *y, int *winner, STORED *out)
{
    int column, row;
    const int image = g.out_h.split(g.out_w.split(g.c_in.divide(at.i), column), row);
    neighbours<N, REAL> largest;
    neighbours<N, int> first = {};
    #pragma unroll
    for (int j = 0; j < N; j++)
        largest.x[j] = -infinity();
    for (int place = 0; place < g.k_h * g.k_w; place++) {
        int across;
        const int down = g.k_w.split(place, across);
        const int i = pixel(image, row * g.s_h - g.p_h + down, column * g.s_w - g.p_w + across, at.c, g.h, g.w, g.c_in);
        if (i < 0)
            continue;
        const auto values = group<N>{(unsigned) i, at.c}.of(y);
        #pragma unroll
        for (int j = 0; j < N; j++)
            if (largest[j] == largest[j] && !((REAL) values[j] <= largest[j]))
                largest.x[j] = values[j], first.x[j] = place;
    }
    at.set(out, [&](int j) { return largest[j]; });
    at.set(winner, [&](int j) { return first[j]; });
}

extern "C" __global__ void max_pool(const int *divisors, const STORED *y, int *winner, int size, STORED *out)
{
    const geometry g = *(const geometry *) divisors;
    each_group(size, g.c_in, aligned(y, winner, out), [=](auto at) { pool(g, at, y, winner, out); });
}

/* The first of the windows, `stride` apart, that contain a pixel of the padded image.  */
__device__ int first_window(int pixel, int size, const divisor &stride)
{
    return pixel < size ? 0 : stride.divide(pixel - size) + 1;
}

/* The sum of the errors of the windows of which each of N neighbouring pixels is the maximum.  */
template <int N> __device__ void pool_back(
    const geometry &g, const group<N> &at, const STORED *delta, const int *winner, STORED *out)
{
    int x, y;
    const int image = g.h.split(g.w.split(g.c_in.divide(at.i), x), y), right = x + g.p_w, below = y + g.p_h;
    const int last_row = min(g.s_h.divide(below), g.out_h - 1), last_column = min(g.s_w.divide(right), g.out_w - 1);
    neighbours<N, REAL> sums = {};
    for (int row = first_window(below, g.k_h, g.s_h); row <= last_row; row++)
        for (int column = first_window(right, g.k_w, g.s_w); column <= last_column; column++) {
            const int place = (below - row * g.s_h) * g.k_w + right - column * g.s_w;
            const group<N> window = {(unsigned) (((image * g.out_h + row) * g.out_w + column) * g.c_in) + at.c, at.c};
            const auto places = window.of(winner);
            const auto errors = window.of(delta);
            #pragma unroll
            for (int j = 0; j < N; j++)
                if (places[j] == place)
                    sums.x[j] += errors[j];
        }
    at.set(out, [&](int j) { return sums[j]; });
}

extern "C" __global__ void max_pool_back(const int *divisors, const STORED *delta, const int *winner, int size, STORED *out)
{
    const geometry g = *(const geometry *) divisors;
    each_group(size, g.c_in, aligned(delta, winner, out), [=](auto at) { pool_back(g, at, delta, winner, out); });
}
