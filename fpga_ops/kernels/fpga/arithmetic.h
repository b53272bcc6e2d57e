/* What a multiplier, a requantiser and a residual adder compute. Equal to fpga_ops/ir/reference.py bit for bit; the
 * block-floating-point variant equals fpga_ops/overlay/block_float.py. */

/* Accumulator (bias added) to uint8. `pre` is a constant of the layer, so its shifter is shared by all lanes.
 * One 18x19 multiplier: t is 16 bits, m is 15. */
uchar requantise(int acc, int pre, int shift, int m, int low, int high)
{
  const int t = clamp((acc << pre) >> shift, -32768, 32767);
  const int u = (t * m) >> 16;
  return (uchar)clamp(u >> 4, low, high);
}

/* Residual addition: two 8x16 products. */
uchar add_rule(int y, int r, int first, int second, int offset, int shift, int low, int high)
{
  const int v = ((y * first) >> 8) + ((r * second) >> 8) + offset;
  return (uchar)clamp(v >> shift, low, high);
}

/* Two products that share the activation, in one signed 18x19 multiplier (after Langhammer et al., FPL 2019):
 * (w1 * 2^10 + w0) * a. The ten low bits are those of w0 * a; what it carries into the high part is six bits, found
 * by a 6x6-bit product of low bits in logic. Exact for every uint8 a and int8 w0, w1 (an exhaustive test). */
int2 multiply_pair(uchar a, char w0, char w1)
{
  const int packed = (int)w1 * 1024 + w0;               /* 19 bits */
  const int product = packed * (int)a;                  /* the multiplier */
  const int high = product >> 10;                       /* w1 * a + floor(w0 * a / 1024) */
  const int low6 = ((int)w1 & 63) * ((int)a & 63);      /* logic: only six bits are kept */
  const int carry = ((high - low6) << 26) >> 26;        /* floor(w0 * a / 1024), sign extended */
  return (int2)((carry << 10) | (product & 1023), high - carry);
}

/* Block floating point: the VEC channels of a pixel share an exponent 0..3, each keeps 5 bits (rounded half up). */
int block_exponent(int any)
{
  return any >= 128 ? 3 : any >= 64 ? 2 : any >= 32 ? 1 : 0;
}

int block_mantissa(int x, int exponent)
{
  return min((x + ((1 << exponent) >> 1)) >> exponent, 31);
}
