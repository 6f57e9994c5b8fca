/* Where the values of a product's two factors lie in memory.

   Both factors are seen as rows along k: out[m][n] = sum over k of A[m][k] B[n][k].  An operand answers `row(m)`, what
   is known of row m before k is, and `at(row, k)`, the address of a value or null for a zero.  Memory runs along k
   (ALONG_K) or along the rows; `wide` says that four neighbours that way may be read as one.  */

struct __align__(16) four {
    REAL x[4];
};

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

__device__ bool aligned(const REAL *x) { return (size_t) x % 16 == 0; }

/* x[m][k], one of its strides 1.  */
template <bool K> struct Matrix {
    enum { ALONG_K = K };
    struct Row { int m; };
    const REAL *x;
    int stride, rows, depth;
    bool wide;

    __device__ Matrix(const REAL *x, int stride, int rows, int depth) : x(x), stride(stride), rows(rows), depth(depth)
    {
        wide = (K ? depth : rows) % 4 == 0 && stride % 4 == 0 && aligned(x);
    }
    __device__ Row row(int m) const { return {m}; }
    __device__ const REAL *at(Row row, int k) const
    {
        const size_t far = K ? row.m : k, near = K ? k : row.m;
        return row.m < rows && k < depth ? x + far * stride + near : nullptr;
    }
};

/* The value of image (N, H, W, C) in y, x and channel c; null in the padding.  */
__device__ const REAL *pixel(const REAL *images, int image, int y, int x, int c, int h, int w, int channels)
{
    const bool inside = (unsigned) y < (unsigned) h && (unsigned) x < (unsigned) w;
    return inside ? images + (((size_t) image * h + y) * w + x) * channels + c : nullptr;
}

/* Rows: the patches of y.  */
struct Patches {
    enum { ALONG_K = true };
    struct Row { int image, y, x; bool valid; };
    const REAL *images;
    geometry g;
    bool wide;

    __device__ Patches(const REAL *y, const geometry &g) : images(y), g(g) { wide = g.c_in % 4 == 0 && aligned(y); }
    __device__ Row row(int m) const
    {
        int y, x;
        const int image = g.out_h.split(g.out_w.split(m, x), y);
        return {image, y * g.s_h - g.p_h, x * g.s_w - g.p_w, m < g.positions()};
    }
    __device__ const REAL *at(const Row &row, int k) const
    {
        int c, x;
        const int y = g.k_w.split(g.c_in.split(k, c), x);
        return row.valid && y < g.k_h ? pixel(images, row.image, row.y + y, row.x + x, c, g.h, g.w, g.c_in) : nullptr;
    }
};

/* Rows: the places (k_h, k_w, C_in) of a patch; k: the positions.  */
struct Places {
    enum { ALONG_K = false };
    struct Row { int m, y, x, c; };
    const REAL *images;
    geometry g;
    bool wide;

    __device__ Places(const REAL *y, const geometry &g) : images(y), g(g) { wide = g.c_in % 4 == 0 && aligned(y); }
    __device__ Row row(int m) const
    {
        int c, x;
        const int y = g.k_w.split(g.c_in.split(m, c), x);
        return {m, y - g.p_h, x - g.p_w, c};
    }
    __device__ const REAL *at(const Row &row, int k) const
    {
        int y, x;
        const int image = g.out_h.split(g.out_w.split(k, x), y);
        const bool valid = k < g.positions() && row.m < g.n_in();
        return valid ? pixel(images, image, y * g.s_h + row.y, x * g.s_w + row.x, row.c, g.h, g.w, g.c_in) : nullptr;
    }
};

/* Rows: the pixels of the image below; k: the places (k_h, k_w, C_out) from which delta comes back to them.  */
struct Echoes {
    enum { ALONG_K = true };
    struct Row { int image, y, x; bool valid; };
    const REAL *delta;
    geometry g;
    bool wide;

    __device__ Echoes(const REAL *delta, const geometry &g) : delta(delta), g(g)
    {
        wide = g.c_out % 4 == 0 && aligned(delta);
    }
    __device__ Row row(int m) const
    {
        int y, x;
        const int image = g.h.split(g.w.split(m, x), y);
        return {image, y + g.p_h, x + g.p_w, m < g.pixels()};
    }
    __device__ const REAL *at(const Row &row, int k) const
    {
        int c, x, y_rest, x_rest;
        const int y = g.k_w.split(g.c_out.split(k, c), x), down = row.y - y, across = row.x - x;
        if (!row.valid || y >= g.k_h || down < 0 || across < 0)
            return nullptr;
        const int out_y = g.s_h.split(down, y_rest), out_x = g.s_w.split(across, x_rest);
        return y_rest || x_rest ? nullptr : pixel(delta, row.image, out_y, out_x, c, g.out_h, g.out_w, g.c_out);
    }
};

/* Rows: C_in; k: (k_h, k_w, C_out); memory: B's transpose, (C_out, k_h k_w C_in).  */
struct Feedback {
    enum { ALONG_K = false };
    struct Row { int m; };
    const REAL *B;
    geometry g;
    bool wide;

    __device__ Feedback(const REAL *B, const geometry &g) : B(B), g(g) { wide = g.c_in % 4 == 0 && aligned(B); }
    __device__ Row row(int m) const { return {m}; }
    __device__ const REAL *at(Row row, int k) const
    {
        int c;
        const int place = g.c_out.split(k, c);
        const bool valid = row.m < g.c_in && place < g.k_h * g.k_w;
        return valid ? B + ((size_t) c * g.k_h * g.k_w + place) * g.c_in + row.m : nullptr;
    }
};
