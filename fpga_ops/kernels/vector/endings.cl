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

// In integers: (sum * multiplier + offset) >> (32 + shift), of 16 channels: parameters of a panel are then int multipliers,
// int shifts, and for each 16 channels long offsets of those with an even number and of the others. Two products of 32 bits
// are one instruction for 8 channels where registers have 256 bits; float64 takes twice as many. The instruction takes the
// first of each two numbers, so those of channels with an odd number are read one further on.
INLINE int16 fixed16(const int16 sum, G const int* multipliers, const int16 shift, const long8 even, const long8 odd)
{
  const long8 sums = AS(sum, long8);
  const long8 factors = AS(vload16(0, multipliers), long8), others = AS(vload16(0, multipliers + 1), long8);
  const long8 first = (sums << 32 >> 32) * (factors << 32 >> 32) + even;
  const long8 second = (sums >> 32) * (others << 32 >> 32) + odd;
  const ulong8 tops = AS(first, ulong8) >> 32 | (AS(second, ulong8) & 0xffffffff00000000ul);
  return shift_right(AS(tops, int16), shift);
}

// Vector `j` of a panel; `fixed` and `plain` are constants.
INLINE int16 requantise_vector(const int16 sum, G const double* parameters, const int j, const int panel,
                               G const long* rule, const int fixed, const int plain)
{
  if (!fixed) return requantise16(sum, vload16(j, parameters), vload16(j, parameters + panel), rule, plain);
  G const int* whole = (G const int*)parameters;
  G const long* offsets = (G const long*)(parameters + panel);
  const int16 result = fixed16(sum, whole + 16 * j, vload16(j, whole + panel), vload8(2 * j, offsets),
                               vload8(2 * j + 1, offsets));
  return clamp(result, 0, 255);
}

// In float32, where it was found to give all sums (fpga_ops/vector/endings.py).
typedef struct {
  float slope, other, intercept;
} float_rule;

INLINE float_rule read_float_rule(G const long* rule)
{
  return (float_rule){(float)as_double(rule[0]), (float)as_double(rule[1]), (float)as_double(rule[2])};
}

INLINE int16 add_float16(const int16 y, const uchar16 r, const float_rule rule)
{
  const float16 part = fma(convert_float16(convert_int16(r)), (float16)rule.other, (float16)rule.intercept);
  return clamp(nearest_float(fma(convert_float16(y), (float16)rule.slope, part)), 0, 255);
}

INLINE int16 add16(const int16 y, const uchar16 r, G const long* rule, const int plain)
{
  const double16 slope = as_double(rule[0]), other = as_double(rule[1]), intercept = as_double(rule[2]);
  const double16 part = fma(convert_double16(convert_int16(r)), other, intercept);
  return finish16(fma(convert_double16(y), slope, part), rule + SUM_ENDS, plain);
}

// A tile whose sums are kept: m is its first pixel.
typedef struct {
  G const double* parameters;
  G uchar* output;
  G const uchar* residual;
  int m;
} unfinished;
