// From sums to bytes, for every instruction set: the rules of fpga_ops/ir/network.py in IEEE float64, one rounding of the
// product and sum, ties to even. A layer's `rule`: slopes of both operands and intercept of a sum; coarse constant,
// increment, low and high of the requantisation, then of the sum (real numbers as the bits of a double); bytes of a panel.
#pragma OPENCL EXTENSION cl_khr_fp64 : enable
#define ENDS 3
#define SUM_ENDS 7
#define PANEL_BYTES 11

// To the nearest integer, ties to even, of values within +-2^30: the sum's last bits are that integer. (convert_int16_rte is
// a call for each four numbers where the compiler's target has no AVX-512.)
#define NEAREST 0x1.8p52
INLINE int16 nearest16(const double16 value)
{
  return convert_int16(as_long16(value + NEAREST));
}

// `plain`, a constant: neither coarse constant nor increment, and all of 0 to 255 allowed.
INLINE int16 finish16(const double16 value, G const long* ends, const int plain)
{
  if (plain) return clamp(nearest16(value), 0, 255);
  const double coarse = as_double(ends[0]);
  const int16 rounded = nearest16((value + coarse) - coarse);
  return clamp(rounded + (int)ends[1], (int16)(int)ends[2], (int16)(int)ends[3]);
}

INLINE int16 requantise16(const int16 sum, const double16 slope, const double16 intercept, G const long* rule,
                          const int plain)
{
  return finish16(fma(convert_double16(sum), slope, intercept), rule + ENDS, plain);
}

INLINE int16 add16(const int16 y, const uchar16 r, G const long* rule, const int plain)
{
  const double16 slope = as_double(rule[0]), other = as_double(rule[1]), intercept = as_double(rule[2]);
  const double16 part = fma(convert_double16(convert_int16(r)), other, intercept);
  return finish16(fma(convert_double16(y), slope, part), rule + SUM_ENDS, plain);
}
