/* Instructions that CUDA C++ does not offer: rounding, asynchronous copies to shared memory, and the operations of the 32
   lanes of a warp on matrices.

   load_matrices(words, row): loads four matrices of 8 rows of 16 bytes; lane l gives the address of row l % 8 of matrix
   l / 8.  Lane 4 g + t gets word t of row g of each.  load_transposed treats them as 8 x 8 half words and gives the halves
   (2t, g) and (2t + 1, g).

   mma(d, a, b): D (16 x 8) += A B.  Lane 4 g + t supplies of A (16 x 8 words, row major) the words (g, t), (g + 8, t),
   (g, t + 4), (g + 8, t + 4), of B (8 words x 8, column major) (t, g) and (t + 4, g), and holds of D the values (g, 2t),
   (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1).  A word along k holds one tf32 number or two neighbouring bf16 numbers.
   (PTX ISA, "Matrix fragments for mma.m16n8k8 / m16n8k16", "ldmatrix", "cp.async".)  */

#ifndef CUDA_DOUBLE  /* the tests' stand-in defines its own */

__device__ __forceinline__ unsigned to_tf32(unsigned x)
{
    unsigned bits;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(__uint_as_float(x)));
    return bits;
}

__device__ __forceinline__ unsigned to_bf16x2(float low, float high)
{
    unsigned bits;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
    return bits;
}

/* Start to copy 16 bytes of `array` from an index on, or zeros if it is negative, which may not be read before
   wait_for_copies.  */
template <class T> __device__ __forceinline__ void start_copy(void *shared, const T *array, int index)
{
    asm volatile("{ .reg .pred zeros; setp.lt.s32 zeros, %2, 0; cp.async.ca.shared.global [%0], [%1], 16, zeros; }"
                 :: "r"((unsigned) __cvta_generic_to_shared(shared)), "l"(array + index), "r"(index) : "memory");
}

/* End the batch of copies started since the last call.  */
__device__ __forceinline__ void end_batch_of_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

/* Wait for all batches that this thread started but the latest RUNNING.  */
template <int RUNNING> __device__ __forceinline__ void wait_for_copies()
{
    asm volatile("cp.async.wait_group %0;" :: "n"(RUNNING) : "memory");
}

__device__ __forceinline__ void load_matrices(unsigned (&words)[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
                 : "r"((unsigned) __cvta_generic_to_shared(row)) : "memory");
}

__device__ __forceinline__ void load_transposed(unsigned (&words)[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
                 : "r"((unsigned) __cvta_generic_to_shared(row)) : "memory");
}

__device__ __forceinline__ void mma_tf32(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2])
{
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ __forceinline__ void mma_bf16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2])
{
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

#endif
