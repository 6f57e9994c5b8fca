/* Correlations of random signs, from bits: y[i][j] is -1 where bit i n + j is 1, the highest bit of a byte being the first. */
#include <stdint.h>

/* How many bits of x are 1. */
INLINE long ones(uint64_t x) {
#if defined(__POPCNT__) || defined(__aarch64__)
    return __builtin_popcountll(x);
#else
    x -= x >> 1 & 0x5555555555555555, x = (x & 0x3333333333333333) + (x >> 2 & 0x3333333333333333);
    x = (x + (x >> 4)) & 0x0f0f0f0f0f0f0f0f, x += x >> 8, x += x >> 16, x += x >> 32;
    return x & 127;
#endif
}

/* The 8 x 8 bits of x, a row in each byte, transposed. */
INLINE uint64_t transposed_bits(uint64_t x) {
    uint64_t t = (x ^ x >> 7) & 0x00aa00aa00aa00aa;
    x ^= t ^ t << 7, t = (x ^ x >> 14) & 0x0000cccc0000cccc;
    x ^= t ^ t << 14, t = (x ^ x >> 28) & 0x00000000f0f0f0f0;
    return x ^ t ^ t << 28;
}

/* Write the bits of columns j to j + 7, those of 8 rows from row i on, into a byte of these columns' words. */
static void eight_columns(const uint8_t *bits, long i, long j, long rows, long n, uint8_t *bytes) {
    long last = (rows * n - 1) / 8;
    uint64_t square = 0;
    for (long r = 0; r < MIN(8, rows - i); r++) {
        long first = (i + r) * n + j, byte = first / 8;
        uint64_t two = bits[byte] << 8 | bits[MIN(byte + 1, last)];
        square |= (two >> (8 - first % 8) & 255) << 8 * r;
    }
    square = transposed_bits(square);
    for (long c = 0; c < MIN(8, n - j); c++) bytes[c * sizeof(uint64_t)] = square >> 8 * (7 - c);
}

/* found (n, n) = y^T y for y (rows, n): the number of rows in which two columns agree, less that in which they differ. */
void sign_correlations(const uint8_t *bits, long rows, long n, REAL *found) {
    long count = (rows + 63) / 64;
    uint64_t *words = checked(calloc(count * n, sizeof(uint64_t)));  /* words[w n + j]: 64 rows of column j; 0 after the last row */
    if (!words) return;
#pragma omp parallel num_threads(thread_limit())
    {
#pragma omp for schedule(static)
        for (long i = 0; i < rows; i += 8)
            for (long j = 0; j < n; j += 8)
                eight_columns(bits, i, j, rows, n, (uint8_t *)(words + i / 64 * n + j) + i % 64 / 8);
        long *different = checked(malloc(n * sizeof(long)));
#pragma omp for schedule(static, 1)
        for (long i = 0; i < n; i++) {
            if (!different) continue;
            memset(different, 0, n * sizeof(long));
            for (long w = 0; w < count; w++) {
                const uint64_t *row = words + w * n, own = row[i];
                for (long j = 0; j <= i; j++) different[j] += ones(own ^ row[j]);
            }
            for (long j = 0; j <= i; j++) found[i * n + j] = found[j * n + i] = rows - 2 * different[j];
        }
        free(different);
    }
    free(words);
}
