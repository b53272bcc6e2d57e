// AVX-512 VNNI: four products of bytes, or two of words, and their sum in one instruction of 512 bits.
int16 vpdpbusd(int16, char64, char64) __asm__("llvm.x86.avx512.vpdpbusd.512");
int16 vpdpwssd(int16, short32, short32) __asm__("llvm.x86.avx512.vpdpwssd.512");

INLINE int16 add_products(int16 sum, four_bytes x, int16 weights)
{
  return vpdpbusd(sum, AS(x, char64), AS(weights, char64));
}

INLINE int16 add_pairs(int16 sum, int16 words, int16 weights)
{
  return vpdpwssd(sum, AS(words, short32), AS(weights, short32));
}

#define SATURATES 0
