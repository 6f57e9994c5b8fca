/* The noise of weight mirrors, by the bits of NumPy's PCG64.  */

struct wide { /* an unsigned number of 128 bits */
    unsigned long long high, low;

    __device__ wide operator+(wide b) const { return {high + b.high + (low + b.low < low), low + b.low}; }
    __device__ wide operator*(wide b) const
    {
        return {__umul64hi(low, b.low) + high * b.low + low * b.high, low * b.low};
    }
};

/* The output after this number of steps, each of which makes the state multiplier * state + increment (O'Neill, 2014: PCG
   XSL-RR 128/64).  2, 4, 8, ... steps together are steps of the same form.  */
__device__ unsigned long long pcg64(wide state, wide increment, unsigned steps)
{
    wide multiplier = {0x2360ED051FC65DA4, 0x4385DF649FCCF645};
    for (; steps; steps /= 2) {
        if (steps % 2)
            state = multiplier * state + increment;
        increment = multiplier * increment + increment;
        multiplier = multiplier * multiplier;
    }
    const unsigned long long folded = state.high ^ state.low;
    const unsigned turn = state.high >> 58;
    return folded >> turn | folded << (64 - turn) % 64;
}

/* out (size): 1 - 2 times each bit, the highest bit of each byte first.  */
extern "C" __global__ void __launch_bounds__(THREADS) independent_signs(
    unsigned long long state_high, unsigned long long state_low, unsigned long long increment_high,
    unsigned long long increment_low, int size, REAL *out)
{
    __shared__ unsigned long long words[THREADS];
    const unsigned first = blockIdx.x * THREADS;
    words[threadIdx.x] = pcg64({state_high, state_low}, {increment_high, increment_low}, first + threadIdx.x + 1);
    __syncthreads();
    for (unsigned i = threadIdx.x; i < 64 * THREADS && 64 * first + i < size; i += THREADS)
        out[64 * first + i] = 1 - 2 * (int) (words[i / 64] >> (i % 64 ^ 7) & 1);
}
