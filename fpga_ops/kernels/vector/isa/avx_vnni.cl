// AVX-VNNI (or VNNI with AVX-512VL): the same instructions in 256 bits, 8 channels each.
int8 vpdpbusd(int8, char32, char32) __asm__("llvm.x86.avx512.vpdpbusd.256");
int8 vpdpwssd(int8, short16, short16) __asm__("llvm.x86.avx512.vpdpwssd.256");

INLINE int16 add_products(int16 sum, four_bytes x, int16 weights)
{
  sum.lo = vpdpbusd(sum.lo, AS(x.lo, char32), AS(weights.lo, char32));
  sum.hi = vpdpbusd(sum.hi, AS(x.lo, char32), AS(weights.hi, char32));
  return sum;
}

INLINE int16 add_pairs(int16 sum, int16 words, int16 weights)
{
  sum.lo = vpdpwssd(sum.lo, AS(words.lo, short16), AS(weights.lo, short16));
  sum.hi = vpdpwssd(sum.hi, AS(words.lo, short16), AS(weights.hi, short16));
  return sum;
}

#define SATURATES 0
