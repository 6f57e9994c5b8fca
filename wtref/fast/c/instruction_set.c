/* The name of the processor's vector instructions that the library was compiled for. */
#if defined(__AVX512F__)
const char *instruction_set = "AVX-512";
#elif defined(__AVX2__)
const char *instruction_set = "AVX2";
#elif defined(__AVX__)
const char *instruction_set = "AVX";
#elif defined(__SSE2__)
const char *instruction_set = "SSE2";
#elif defined(__ARM_NEON)
const char *instruction_set = "NEON";
#else
const char *instruction_set = "vectors of 16 bytes";
#endif
