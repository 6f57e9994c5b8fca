/* What all kernels share: blocks of THREADS threads, and the loop of those that go over `size` values.

   NVRTC, which CuPy compiles with, has none of the host's headers, and so no INFINITY.  */

#define THREADS 256

#define EACH(i, size) \
    for (long long i = (long long) blockIdx.x * THREADS + threadIdx.x; i < (size); i += (long long) gridDim.x * THREADS)


__device__ float infinity() { return __int_as_float(0x7F800000); }
