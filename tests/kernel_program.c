/* The compiled kernels as a program, for processors that are emulated.  It reads calls from standard input: the name of a
 * function (32 bytes), the number of its arguments, and for each of these its kind and its value.  The kind is the size of
 * an array in bytes, or one of those below.  The program answers each call with all arrays, changed or not.
 */
#include <stdio.h>

#include "all.c"

enum { INTEGER = -1, REAL_NUMBER = -2, MOST = 16 };

static struct { long kind; union { long integer; double real; void *array; }; } arguments[MOST];
#define A(i) arguments[i].array
#define N(i) arguments[i].integer
#define R(i) arguments[i].real

static void call(const char *name) {
#define CALL(function, ...)         \
    if (!strcmp(name, #function)) { \
        function(__VA_ARGS__);      \
        return;                     \
    }
    CALL(product, A(0), N(1), N(2), A(3), N(4), N(5), N(6), N(7), N(8), A(9))
    CALL(convolve, A(0), A(1), A(2), N(3), N(4), A(5))
    CALL(convolve_gradient, A(0), A(1), A(2), A(3))
    CALL(convolve_back, A(0), A(1), A(2), N(3), N(4), A(5))
    CALL(max_pool, A(0), A(1), A(2), A(3))
    CALL(max_pool_back, A(0), A(1), A(2), A(3))
    CALL(moments, A(0), N(1), N(2), A(3))
    CALL(norm_sums, A(0), A(1), A(2), A(3), A(4), N(5), N(6), A(7))
    CALL(norm_statistics, A(0), A(1), A(2), A(3), R(4), R(5), N(6), N(7), A(8))
    CALL(norm_gradients, A(0), A(1), A(2), A(3), A(4), A(5), N(6), N(7), A(8))
    CALL(norm_forward, A(0), A(1), A(2), A(3), A(4), N(5), N(6), N(7), A(8))
    CALL(norm_back, A(0), A(1), A(2), A(3), A(4), A(5), A(6), N(7), N(8), A(9))
    CALL(relu, A(0), N(1), A(2))
    CALL(relu_back, A(0), A(1), N(2), A(3))
    CALL(add, A(0), A(1), N(2), N(3), A(4))
    CALL(hadamard_product, A(0), A(1), A(2), N(3), N(4), N(5), N(6), A(7))
    CALL(sign_correlations, A(0), N(1), N(2), A(3))
    CALL(descend, A(0), A(1), A(2), N(3), R(4), R(5), R(6), N(7))
    fprintf(stderr, "%s is not among the functions of kernel_program.c\n", name);
    exit(1);
}

static void get(void *value, size_t size) {
    if (size && fread(value, size, 1, stdin) != 1) exit(0);
}

int main(void) {
    use_threads(2);
    for (;;) {
        char name[32];
        long count;
        get(name, sizeof(name)), get(&count, sizeof(count));
        for (long i = 0; i < count; i++) {
            get(&arguments[i].kind, sizeof(long));
            if (arguments[i].kind < 0)
                get(&N(i), sizeof(long));
            else
                A(i) = arguments[i].kind ? malloc(arguments[i].kind) : NULL, get(A(i), arguments[i].kind);
        }
        call(name);
        for (long i = 0; i < count; i++)
            if (arguments[i].kind > 0) fwrite(A(i), arguments[i].kind, 1, stdout), free(A(i));
        fflush(stdout);
    }
}
