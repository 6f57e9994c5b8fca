/* Where the values of a product's two factors lie in memory.

   Both factors are matrices with rows along k: out[m][n] = sum over k of A[m][k] B[n][k].  An operand has `row(m)` and
   `place(k)`, which compute what depends on m or on k alone, and `at(row, place)`, the index of a value in the array that
   begins at `start`, ZERO for zero.  Memory is contiguous along k (ALONG_K) or along the rows; `wide` tells whether GROUP
   neighbours in that direction may be read by one instruction.

   `run(k)` is the number of tiles, the first of which begins at k, whose indices are those of the tile before + `step()`:
   the channels at one tap, if tiles do not straddle taps.  `result(m)` of A is the row of the
   product that m is, negative for none.  */

#define OUTSIDE (1 << 28)  /* a coordinate outside every image */
#define ZERO (1 << 31)  /* negative, and remains so when an array's size is added */

/* A divisor: n / value = (n + the high word of n magic) >> shift for 0 <= n < 2^31.  */
struct divisor {
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
    divisor n, h, w, c_in, out_h, out_w, c_out, k_h, k_w, s_h, s_w, p_h, p_w;

    __device__ int positions() const { return n * out_h * out_w; }
    __device__ int pixels() const { return n * h * w; }
    __device__ int n_in() const { return k_h * k_w * c_in; }
};

/* The index in images (N, H, W, C) of the value at y, x and channel c; ZERO in the padding.  */
__device__ int pixel(int image, int y, int x, int c, int h, int w, int channels)
{
    const bool inside = (unsigned) y < (unsigned) h && (unsigned) x < (unsigned) w;
    return inside ? ((image * h + y) * w + x) * channels + c : ZERO;
}

/* `run` of an operand whose k are (taps, channels).  */
__device__ int channels_run(const divisor &channels, int k)
{
    int c;
    channels.split(k, c);
    return channels % DEPTH == 0 ? (channels - c) / DEPTH : 1;
}

/* x[m][k], of which one stride is 1.  */
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
    __device__ int at(int m, int k) const { return m < rows && k < depth ? (K ? m * stride + k : k * stride + m) : ZERO; }
    __device__ int run(int k) const { return max((depth - k) / DEPTH, 1); }
    __device__ int step() const { return K ? DEPTH : DEPTH * stride; }
    __device__ int result(int m) const { return m < rows ? m : -1; }
};

/* The images of a convolution: the position of a window, and the position of a tap in it.  */
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
        return {image, position < g.positions() ? y * g.s_h - g.p_h : OUTSIDE, x * g.s_w - g.p_w};
    }
    __device__ Tap tap(int place) const
    {
        int c, x;
        const int y = g.k_w.split(g.c_in.split(place, c), x);
        return {y < g.k_h ? y : OUTSIDE, x, c};
    }
    __device__ int value(const Window &window, const Tap &tap) const
    {
        return pixel(window.image, window.y + tap.y, window.x + tap.x, tap.c, g.h, g.w, g.c_in);
    }
};

/* Rows: the patches of y; k: the positions (k_h, k_w, C_in) in a patch.  */
struct Patches : Images {
    enum { ALONG_K = true };
    using Images::Images;
    __device__ Window row(int m) const { return window(m); }
    __device__ Tap place(int k) const { return tap(k); }
    __device__ int at(const Window &row, const Tap &place) const { return value(row, place); }
    __device__ int run(int k) const { return channels_run(g.c_in, k); }
    __device__ int step() const { return DEPTH; }
    __device__ int result(int m) const { return m < g.positions() ? m : -1; }
};

/* Rows: the positions in a patch; k: the patches.  */
struct TransposedPatches : Images {
    enum { ALONG_K = false };
    using Images::Images;
    __device__ Tap row(int m) const { return tap(m); }
    __device__ Window place(int k) const { return window(k); }
    __device__ int at(const Tap &row, const Window &place) const { return value(place, row); }
    __device__ int run(int k) const { return 1; }
    __device__ int step() const { return 0; }
};

/* The pixels whose errors come through the same taps: every s_h-th and s_w-th from the pixel (y, x) on, through as many taps
   from the tap (top, left) on.  Their errors are those of a convolution `g` of strides 1, whose taps and pixels these are.  */
struct pixel_class {
    geometry g;
    divisor y, x, top, left;

    __device__ int depth() const { return g.k_h * g.k_w * g.c_out; }
};

/* What convolve_back takes: the convolution, and the classes of its pixels.  */
struct back_geometry {
    geometry g;
    pixel_class classes[1];  // and more

    __device__ int count() const { return min(g.s_h.value, g.h.value) * min(g.s_w.value, g.w.value); }
};

/* Rows: the pixels of a class; k: (taps of the class, C_out), whose delta contributes to a pixel.  */
struct ErrorPatches {
    enum { ALONG_K = true };
    struct Pixel { int image, y, x; };
    struct Tap { int y, x, c; };
    const STORED *start;
    geometry whole;
    pixel_class part;
    int first;
    bool wide;

    /* first: the row at which the class begins */
    __device__ ErrorPatches(const STORED *delta, const geometry &whole, const pixel_class &part, int first)
        : start(delta), whole(whole), part(part), first(first)
    {
        wide = whole.c_out % GROUP == 0 && aligned(delta);
    }
    __device__ Pixel row(int m) const
    {
        int y, x;
        const int image = part.g.h.split(part.g.w.split(m - first, x), y);
        return {image, m - first < part.g.pixels() ? y + part.g.p_h : 2 * OUTSIDE, x + part.g.p_w};
    }
    __device__ Tap place(int k) const
    {
        int c, x;
        const int y = part.g.k_w.split(part.g.c_out.split(k, c), x);
        return {y < part.g.k_h ? y : OUTSIDE, x, c};
    }
    __device__ int at(const Pixel &row, const Tap &place) const
    {
        return pixel(row.image, row.y - place.y, row.x - place.x, place.c, whole.out_h, whole.out_w, whole.c_out);
    }
    __device__ int run(int k) const { return channels_run(whole.c_out, k); }
    __device__ int step() const { return DEPTH; }
    __device__ int result(int m) const
    {
        int y, x;
        const int image = part.g.h.split(part.g.w.split(m - first, x), y);
        const int pixel = (image * whole.h + part.y + y * whole.s_h) * whole.w + part.x + x * whole.s_w;
        return m - first < part.g.pixels() ? pixel : -1;
    }
};

/* Rows: C_in; k: as in ErrorPatches; in memory: the transpose of B, (C_out, k_h k_w C_in).  */
struct Feedback {
    enum { ALONG_K = false };
    const STORED *start;
    geometry whole;
    pixel_class part;
    bool wide;

    __device__ Feedback(const STORED *B, const geometry &whole, const pixel_class &part) : start(B), whole(whole), part(part)
    {
        wide = whole.c_in % GROUP == 0 && aligned(B);
    }
    __device__ int row(int m) const { return m; }
    __device__ int place(int k) const
    {
        int c, x;
        const int y = part.g.k_w.split(part.g.c_out.split(k, c), x);
        const int tap = (part.top + y * whole.s_h) * whole.k_w + part.left + x * whole.s_w;
        return y < part.g.k_h ? c * whole.n_in() + tap * whole.c_in : ZERO;
    }
    __device__ int at(int m, int line) const { return m < whole.c_in ? line + m : ZERO; }
    __device__ int run(int k) const { return channels_run(whole.c_out, k); }
    __device__ int step() const { return DEPTH * whole.n_in(); }
};
