/* CUDA's kernel language on one core of a CPU, for tests: the threads of a block are fibers.

   A thread runs until it waits at a barrier of its block or for the lanes of its warp.  `order` determines which thread
   runs first; a kernel whose result depends on it lacks a barrier.  Shared memory is NaN at the start of each block, and
   the destination of a copy is NaN until its thread has waited for the copy.  */

#include <algorithm>
#include <cassert>
#include <csetjmp>
#include <cmath>
#include <math.h>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <functional>
#include <ucontext.h>
#include <vector>

using std::max;
using std::min;
using std::sqrt;

#define CUDA_DOUBLE
#define __device__
#define __host__
#define __global__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))

struct dim3 { unsigned x, y, z; };
static dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace cuda_double {

enum { MOST = 1024, STACK = 1 << 16, SHARED = 48 << 10, MOST_SHARED = 227 << 10, WARP = 32 };
enum State { NEW, READY, AT_BARRIER, AT_WARP, DONE };

struct Copy {
    void *to;
    const void *from;  // null for zeros
    int batch;
};

struct Fiber {
    jmp_buf place;
    ucontext_t start;
    bool alive;  // has a stack on which `live` is running
    State state;
    int operation;  // the number of operations of its warp so far
    std::vector<Copy> copies;  // started and not yet waited for
    int batches;  // the number of batches of copies so far
};

/* The data that a lane passes to the others of its warp, in this operation and the one before.  */
struct Lane { unsigned a[4], b[2]; const char *row; };

static Fiber fibers[MOST];
static Lane lanes[2][MOST];
alignas(16) static char stacks[MOST][STACK];
alignas(16) static char shared_memory[SHARED];
alignas(16) static char dynamic_memory[MOST_SHARED + 16];
static size_t shared_used, dynamic_size;
static long block_number;
static jmp_buf scheduler;
static ucontext_t home;
static int now;
static const std::function<void()> *body;

static void pause(State state)
{
    fibers[now].state = state;
    if (!_setjmp(fibers[now].place))
        _longjmp(scheduler, 1);
}

/* The loop of a fiber, which runs one thread after the other.  */
static void live()
{
    for (;;) {
        (*body)();
        pause(DONE);
    }
}

static void resume(int thread, int threads)
{
    now = thread;
    threadIdx = {thread % blockDim.x, thread / blockDim.x % blockDim.y, thread / blockDim.x / blockDim.y};
    Fiber &fiber = fibers[thread];
    if (_setjmp(scheduler))
        return;
    if (fiber.alive)
        _longjmp(fiber.place, 1);
    fiber.alive = true;
    getcontext(&fiber.start);
    fiber.start.uc_stack = {stacks[thread], 0, STACK};
    fiber.start.uc_link = &home;
    makecontext(&fiber.start, live, 0);
    setcontext(&fiber.start);
}

static bool all(State state, int first, int last)
{
    for (int i = first; i < last; i++)
        if (fibers[i].state != state)
            return false;
    return true;
}

static void release(int first, int last)
{
    for (int i = first; i < last; i++)
        fibers[i].state = READY;
}

/* Run one block.  order: 0 forward, 1 backward, else shuffled anew in each round.  */
static const char *run_block(int threads, int order, unsigned &random)
{
    static char message[200];
    static int turn[MOST];
    block_number++, shared_used = 0;
    memset(dynamic_memory, 0xFF, dynamic_size + 16);
    release(0, threads);
    for (int i = 0; i < threads; i++)
        turn[i] = order == 1 ? threads - 1 - i : i, fibers[i].operation = fibers[i].batches = 0, fibers[i].copies.clear();
    while (!all(DONE, 0, threads)) {
        for (int i = threads - 1; order > 1 && i > 0; i--) {
            random = random * 1664525 + 1013904223;
            std::swap(turn[i], turn[(random >> 8) % (i + 1)]);
        }
        bool moved = false;
        for (int i = 0; i < threads; i++)
            if (fibers[turn[i]].state == READY)
                resume(turn[i], threads), moved = true;
        for (int first = 0; first + WARP <= threads; first += WARP)
            if (all(AT_WARP, first, first + WARP))
                release(first, first + WARP);
        if (all(AT_BARRIER, 0, threads))
            release(0, threads);
        if (!moved) {
            int count[DONE + 1] = {};
            for (int i = 0; i < threads; i++)
                count[fibers[i].state]++, fibers[i].alive = false;
            snprintf(message, sizeof message, "block (%u, %u, %u) is stuck: %d threads wait at a barrier, "
                     "%d for their warp, %d have ended", blockIdx.x, blockIdx.y, blockIdx.z, count[AT_BARRIER],
                     count[AT_WARP], count[DONE]);
            return message;
        }
    }
    for (size_t i = dynamic_size; i < dynamic_size + 16; i++)
        if (dynamic_memory[i] != (char) 0xFF)
            return "it writes behind its dynamic shared memory";
    return nullptr;
}

/* Launch a kernel; return null, or the reason why it could not finish.  */
static const char *launch(
    const unsigned *grid, const unsigned *block, int shared, int order, const std::function<void()> &kernel)
{
    unsigned random = 1;
    dynamic_size = shared;
    gridDim = {grid[0], grid[1], grid[2]}, blockDim = {block[0], block[1], block[2]}, body = &kernel;
    const unsigned blocks = grid[0] * grid[1] * grid[2];
    for (unsigned i = 0; i < blocks; i++) {
        const unsigned b = order == 1 ? blocks - 1 - i : i;
        blockIdx = {b % grid[0], b / grid[0] % grid[1], b / grid[0] / grid[1]};
        if (const char *message = run_block(block[0] * block[1] * block[2], order, random))
            return message;
    }
    return nullptr;
}

/* The block's variable of type T in shared memory; ID distinguishes variables of the same type.  */
template <class T, int ID> T &shared()
{
    static long owner = -1;
    static char *place;
    if (owner != block_number) {
        owner = block_number, place = shared_memory + shared_used;
        shared_used += (sizeof(T) + 15) / 16 * 16;
        if (shared_used > SHARED)
            fprintf(stderr, "more than 48 KiB of shared memory\n"), abort();
        memset(place, 0xFF, sizeof(T));
    }
    return *(T *) place;
}

/* Pass `mine` to the warp; return the data of all its lanes once they have arrived.  */
static const Lane *exchange(const Lane &mine)
{
    Lane *shown = lanes[fibers[now].operation++ % 2];
    shown[now] = mine;
    pause(AT_WARP);
    return shown + now / WARP * WARP;
}

static float real(unsigned bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static unsigned bits(float x)
{
    unsigned bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

/* ldmatrix for four matrices; `of(rows, lane)` reads the word of a lane.  */
template <class Of> void load(unsigned (&words)[4], const void *row, Of of)
{
    const Lane *warp = exchange({{}, {}, (const char *) row});
    for (int i = 0; i < 4; i++) {
        const char *rows[8];
        for (int j = 0; j < 8; j++)
            rows[j] = warp[8 * i + j].row;
        words[i] = of(rows, now % WARP);
    }
}

/* D += A B in a warp, A 16 x 8 words and B 8 x 8; `times` multiplies two words.  */
template <class Times> void mma(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], Times times)
{
    const Lane *warp = exchange({{a[0], a[1], a[2], a[3]}, {b[0], b[1]}, nullptr});
    const int lane = now % WARP, g = lane / 4, t = lane % 4;
    for (int i = 0; i < 4; i++) {
        const int row = g + i / 2 * 8, column = 2 * t + i % 2;
        double sum = d[i];
        for (int k = 0; k < 8; k++)
            sum += times(warp[row % 8 * 4 + k % 4].a[row / 8 + k / 4 * 2], warp[column * 4 + k % 4].b[k / 4]);
        d[i] = sum;
    }
}

}  // namespace cuda_double

static inline float __int_as_float(int bits) { return cuda_double::real(bits); }
static inline void __syncthreads() { cuda_double::pause(cuda_double::AT_BARRIER); }
static inline long long clock64() { static long long cycles; return cycles += 1 << 20; }
static inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned long long) a * b >> 32; }
static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) { return (unsigned __int128) a * b >> 64; }

/* To nearest, ties away from zero, 10 bits of fraction; the hardware leaves the rest of the word undefined.  */
static inline unsigned to_tf32(unsigned x) { return std::isfinite(cuda_double::real(x)) ? x + 0x1000 : x; }

static inline unsigned to_bf16(float x)
{
    const unsigned bits = cuda_double::bits(x);
    return x != x ? 0x7FFF : (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
}
static inline unsigned to_bf16x2(float low, float high) { return to_bf16(high) << 16 | to_bf16(low); }

static inline void mma_tf32(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2])
{
    cuda_double::mma(d, a, b, [](unsigned x, unsigned y) {
        return (double) cuda_double::real(x & 0xFFFFE000) * cuda_double::real(y & 0xFFFFE000);
    });
}

static inline void mma_bf16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2])
{
    cuda_double::mma(d, a, b, [](unsigned x, unsigned y) {
        return (double) cuda_double::real(x << 16) * cuda_double::real(y << 16)
               + (double) cuda_double::real(x & 0xFFFF0000) * cuda_double::real(y & 0xFFFF0000);
    });
}

static inline void load_matrices(unsigned (&words)[4], const void *row)
{
    cuda_double::load(words, row, [](const char *const *rows, int lane) {
        return *(const unsigned *) (rows[lane / 4] + 4 * (lane % 4));
    });
}

static inline void load_transposed(unsigned (&words)[4], const void *row)
{
    cuda_double::load(words, row, [](const char *const *rows, int lane) {
        const int g = lane / 4, t = lane % 4;
        const auto half = [&](int row) { return (unsigned) ((const unsigned short *) rows[row])[g]; };
        return half(2 * t + 1) << 16 | half(2 * t);
    });
}

template <class T> void start_copy(void *shared, const T *array, int index)
{
    cuda_double::Fiber &fiber = cuda_double::fibers[cuda_double::now];
    const T *from = index < 0 ? nullptr : array + index;
    if ((size_t) shared % 16 || (size_t) from % 16)
        fprintf(stderr, "a copy of 16 bytes from or to an address that is no multiple of 16\n"), abort();
    memset(shared, 0xFF, 16);
    fiber.copies.push_back({shared, from, fiber.batches});
}

static inline void end_batch_of_copies() { cuda_double::fibers[cuda_double::now].batches++; }

template <int RUNNING> void wait_for_copies()
{
    cuda_double::Fiber &fiber = cuda_double::fibers[cuda_double::now];
    std::vector<cuda_double::Copy> running;
    for (const cuda_double::Copy &copy : fiber.copies)
        if (copy.batch >= fiber.batches - RUNNING)
            running.push_back(copy);
        else if (copy.from)
            memcpy(copy.to, copy.from, 16);
        else
            memset(copy.to, 0, 16);
    fiber.copies.swap(running);
}
