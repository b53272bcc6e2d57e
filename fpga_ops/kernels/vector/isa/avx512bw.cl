// AVX-512 without VNNI: as avx2.cl, in 512 bits.
int16 vpmaddwd(short32, short32) __asm__("llvm.x86.avx512.pmaddw.d.512");
short32 vpmaddubsw(char64, char64) __asm__("llvm.x86.avx512.pmaddubs.w.512");

INLINE int16 add_products(int16 sum, four_bytes x, int16 weights) // of weights that cannot saturate 16 bits
{
  return sum + vpmaddwd(vpmaddubsw(AS(x, char64), AS(weights, char64)), (short32)(short)1);
}

INLINE int16 add_two_steps(int16 sum, G const uchar* x, int16 even, int16 odd)
{
  const int16 first = as_int(vload4(0, x)), second = as_int(vload4(1, x));
  const short32 four = vpmaddubsw(AS(first, char64), AS(even, char64)) + vpmaddubsw(AS(second, char64), AS(odd, char64));
  return sum + vpmaddwd(four, (short32)(short)1);
}

INLINE int16 add_pairs(int16 sum, int16 words, int16 weights)
{
  return sum + vpmaddwd(AS(words, short32), AS(weights, short32));
}

#define SATURATES 1
