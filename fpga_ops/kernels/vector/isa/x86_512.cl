// What x86 instruction sets of 512 bits share.
int16 vpsravd(int16, int16) __asm__("llvm.x86.avx512.psrav.d.512");
int16 vcvtps2dq(float16, int16, ushort, int) __asm__("llvm.x86.avx512.mask.cvtps2dq.512");
short32 vpmaddubsw(char64, char64) __asm__("llvm.x86.avx512.pmaddubs.w.512");

INLINE int16 shift_right(const int16 value, const int16 bits)
{
  return vpsravd(value, bits);
}

INLINE int16 nearest_float(const float16 value)
{
  return vcvtps2dq(value, (int16)0, (ushort)0xffff, 4); // all lanes, rounding as it is set
}

INLINE short32 weigh_bytes(const int first, const int second, const char64 pairs)
{
  return vpmaddubsw(AS((ushort32)(ushort)(first | second << 8), char64), pairs);
}

#define WIDE 64
