/* One warp multiplies small matrices on its tensor cores: rounding, and the instructions themselves.

   Lane 4 g + t brings of A (16 x 8 words, row major) the words (g, t), (g + 8, t), (g, t + 4), (g + 8, t + 4), of B
   (8 words x 8, column major) (t, g) and (t + 4, g), and holds of D (16 x 8) the values (g, 2t), (g, 2t + 1),
   (g + 8, 2t), (g + 8, 2t + 1).  A word along k holds one number of tf32 or two neighbours of bf16.  (PTX ISA,
   "Matrix fragments for mma.m16n8k8 / m16n8k16".)  */

#ifndef CUDA_DOUBLE  /* the tests' stand-in brings its own */

__device__ __forceinline__ unsigned to_tf32(float x)
{
    unsigned bits;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
    return bits;
}

__device__ __forceinline__ unsigned to_bf16x2(float low, float high)
{
    unsigned bits;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
    return bits;
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
