// AVX2: 8 channels an instruction. vpmaddubsw sums two products of bytes in 16 bits and saturates: it is used in steps
// whose weights cannot (fpga_ops/vector/packing.py finds them); the others take vpmaddwd, products of words.
int8 vpmaddwd(short16, short16) __asm__("llvm.x86.avx2.pmadd.wd");
short16 vpmaddubsw(char32, char32) __asm__("llvm.x86.avx2.pmadd.ub.sw");

INLINE int16 add_products(int16 sum, four_bytes x, int16 weights)
{
  const short16 one = (short)1;
  sum.lo += vpmaddwd(vpmaddubsw(AS(x.lo, char32), AS(weights.lo, char32)), one);
  sum.hi += vpmaddwd(vpmaddubsw(AS(x.lo, char32), AS(weights.hi, char32)), one);
  return sum;
}

INLINE int16 add_two_steps(int16 sum, G const uchar* x, int16 even, int16 odd)
{
  const short16 one = (short)1;
  const int8 first = as_int(vload4(0, x)), second = as_int(vload4(1, x));
  sum.lo += vpmaddwd(vpmaddubsw(AS(first, char32), AS(even.lo, char32)) + vpmaddubsw(AS(second, char32), AS(odd.lo, char32)), one);
  sum.hi += vpmaddwd(vpmaddubsw(AS(first, char32), AS(even.hi, char32)) + vpmaddubsw(AS(second, char32), AS(odd.hi, char32)), one);
  return sum;
}

INLINE int16 add_pairs(int16 sum, int16 words, int16 weights)
{
  sum.lo += vpmaddwd(AS(words.lo, short16), AS(weights.lo, short16));
  sum.hi += vpmaddwd(AS(words.lo, short16), AS(weights.hi, short16));
  return sum;
}

#define SATURATES 1
