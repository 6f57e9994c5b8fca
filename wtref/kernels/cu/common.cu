/* What all kernels share: blocks of THREADS threads, and the loop of those that go over `size` values.  */

#define THREADS 256

#define EACH(i, size) \
    for (long long i = (long long) blockIdx.x * THREADS + threadIdx.x; i < (size); i += (long long) gridDim.x * THREADS)

