/* Where the values of a product's two factors lie in memory.

   Both factors are seen as rows along k: out[m][n] = sum over k of A[m][k] B[n][k].  An operand answers `row(m)` and
   `place(k)`, what is known of row m and of k each by itself, and `at(row, place)`, the address of a value or null for a
   zero.  Memory begins at `start` and runs along k (ALONG_K) or along the rows; `wide` says that GROUP neighbours that way
   may be read as one.  */

#define FAR (1 << 28)  /* a coordinate outside of every image */

/* A number that others are divided by: n / value = (n + the high word of n magic) >> shift for 0 <= n < 2^31.  */
struct number {
    int value;
    unsigned magic;
    int shift;

    __device__ operator int() const { return value; }
    __device__ int divide(int n) const { return (n + __umulhi(n, magic)) >> shift; }
    __device__ int split(int n, int &rest) const
    {
        const int quotient = divide(n);
        rest = n - quotient * value;
        return quotient;
    }
};

struct geometry {
    number n, h, w, c_in, out_h, out_w, c_out, k_h, k_w, s_h, s_w, p_h, p_w;

    __device__ int positions() const { return n * out_h * out_w; }
    __device__ int pixels() const { return n * h * w; }
    __device__ int n_in() const { return k_h * k_w * c_in; }
};

/* The value of image (N, H, W, C) in y, x and channel c; null in the padding.  */
__device__ const STORED *pixel(const STORED *images, int image, int y, int x, int c, int h, int w, int channels)
{
    const bool inside = (unsigned) y < (unsigned) h && (unsigned) x < (unsigned) w;
    return inside ? images + (size_t) ((image * h + y) * w + x) * channels + c : nullptr;
}

/* x[m][k], one of its strides 1.  */
template <bool K> struct Matrix {
    enum { ALONG_K = K };
    const STORED *start;
    int stride, rows, depth;
    bool wide;

    __device__ Matrix(const STORED *x, int stride, int rows, int depth) : start(x), stride(stride), rows(rows), depth(depth)
    {
        wide = (K ? depth : rows) % GROUP == 0 && stride % GROUP == 0 && aligned(x);
    }
    __device__ int row(int m) const { return m; }
    __device__ int place(int k) const { return k; }
    __device__ const STORED *at(int m, int k) const
    {
        const size_t far = K ? m : k, near = K ? k : m;
        return m < rows && k < depth ? start + far * stride + near : nullptr;
    }
};

/* Images that a kernel slides over: where it stands, and which of its values is meant.  */
struct Images {
    struct Window { int image, y, x; };
    struct Tap { int y, x, c; };
    const STORED *start;
    geometry g;
    bool wide;

    __device__ Images(const STORED *y, const geometry &g) : start(y), g(g) { wide = g.c_in % GROUP == 0 && aligned(y); }
    __device__ Window window(int position) const
    {
        int y, x;
        const int image = g.out_h.split(g.out_w.split(position, x), y);
        return {image, position < g.positions() ? y * g.s_h - g.p_h : FAR, x * g.s_w - g.p_w};
    }
    __device__ Tap tap(int place) const
    {
        int c, x;
        const int y = g.k_w.split(g.c_in.split(place, c), x);
        return {y < g.k_h ? y : FAR, x, c};
    }
    __device__ const STORED *value(const Window &window, const Tap &tap) const
    {
        return pixel(start, window.image, window.y + tap.y, window.x + tap.x, tap.c, g.h, g.w, g.c_in);
    }
};

/* Rows: the patches of y; k: the places (k_h, k_w, C_in) of a patch.  */
struct Patches : Images {
    enum { ALONG_K = true };
    using Images::Images;
    __device__ Window row(int m) const { return window(m); }
    __device__ Tap place(int k) const { return tap(k); }
    __device__ const STORED *at(const Window &row, const Tap &place) const { return value(row, place); }
};

/* Rows: the places of a patch; k: the patches.  */
struct Places : Images {
    enum { ALONG_K = false };
    using Images::Images;
    __device__ Tap row(int m) const { return tap(m); }
    __device__ Window place(int k) const { return window(k); }
    __device__ const STORED *at(const Tap &row, const Window &place) const { return value(place, row); }
};

/* Rows: the pixels of the image below; k: the places (k_h, k_w, C_out) from which delta comes back to them.  */
struct Echoes {
    enum { ALONG_K = true };
    struct Pixel { int image, y, x; };
    struct Tap { int y, x, c; };
    const STORED *start;
    geometry g;
    bool wide;

    __device__ Echoes(const STORED *delta, const geometry &g) : start(delta), g(g)
    {
        wide = g.c_out % GROUP == 0 && aligned(delta);
    }
    __device__ Pixel row(int m) const
    {
        int y, x;
        const int image = g.h.split(g.w.split(m, x), y);
        return {image, m < g.pixels() ? y + g.p_h : 2 * FAR, x + g.p_w};
    }
    __device__ Tap place(int k) const
    {
        int c, x;
        const int y = g.k_w.split(g.c_out.split(k, c), x);
        return {y < g.k_h ? y : FAR, x, c};
    }
    __device__ const STORED *at(const Pixel &row, const Tap &place) const
    {
        int y_rest, x_rest;
        const int down = row.y - place.y, across = row.x - place.x;
        if (down < 0 || across < 0)
            return nullptr;
        const int y = g.s_h.split(down, y_rest), x = g.s_w.split(across, x_rest);
        return y_rest || x_rest ? nullptr : pixel(start, row.image, y, x, place.c, g.out_h, g.out_w, g.c_out);
    }
};

/* Rows: C_in; k: (k_h, k_w, C_out); memory: B's transpose, (C_out, k_h k_w C_in).  */
struct Feedback {
    enum { ALONG_K = false };
    const STORED *start;
    geometry g;
    bool wide;

    __device__ Feedback(const STORED *B, const geometry &g) : start(B), g(g) { wide = g.c_in % GROUP == 0 && aligned(B); }
    __device__ int row(int m) const { return m; }
    __device__ const STORED *place(int k) const
    {
        int c;
        const int tap = g.c_out.split(k, c), taps = g.k_h * g.k_w;
        return tap < taps ? start + (size_t) (c * taps + tap) * g.c_in : nullptr;
    }
    __device__ const STORED *at(int m, const STORED *line) const { return line && m < g.c_in ? line + m : nullptr; }
};
