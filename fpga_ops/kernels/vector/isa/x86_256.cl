// What x86 instruction sets of 256 bits share; a vector of 16 channels is two halves.
int8 vpsravd(int8, int8) __asm__("llvm.x86.avx2.psrav.d.256");
int8 vcvtps2dq(float8) __asm__("llvm.x86.avx.cvt.ps2dq.256");

INLINE int16 shift_right(const int16 value, const int16 bits)
{
  return (int16)(vpsravd(value.lo, bits.lo), vpsravd(value.hi, bits.hi));
}

INLINE int16 nearest_float(const float16 value)
{
  return (int16)(vcvtps2dq(value.lo), vcvtps2dq(value.hi));
}

#define WIDE 32
