/* What a multiplier, a requantiser and a residual adder compute. Equal to fpga_ops/ir/reference.py bit for bit.
 *
 * Widths are stated wherever C's types are wider than what is meant, because hardware is as wide as its types: by masks,
 * by NARROW (sign extension from so many bits) and by ACC_BITS and MUL_BITS, an accumulator's and a multiplier's bits
 * (27 and 27 make one multiplier of a DSP block; the host refuses a network that needs more). */
#define NARROW(x, bits) ((int)((uint)(x) << (32 - (bits))) >> (32 - (bits)))
#define BITS(n) (0xFFFFFFFFu >> (32 - (n)))

/* The common end of both rules: v to a byte, with v half a step above the exact value. `tie` is 0, or 1 + the lowest of
 * the bits of v below `shift` that are all zero at a tie, which then goes to even.
 * A byte is a field of v, so the shift narrows as it goes: by 0, 16, 32 or 48 to 27 bits, by 0 to 15 to 11 bits. What does
 * not fit is far beyond the bounds either way. */
uchar finish(long v, int shift, int tie, int increment, int low, int high)
{
  const long far = (shift & 48) == 0 ? v : (shift & 48) == 16 ? v >> 16 : (shift & 48) == 32 ? v >> 32 : v >> 48;
  const bool beyond = (far >> 26) != 0 && (far >> 26) != -1;
  const int near = NARROW((int)far, 27) >> (shift & 15);
  const int y = beyond ? (v < 0 ? -1024 : 1022) : clamp(near, -1024, 1022);          /* 11 bits, even at the ends */
  const ulong fraction = (1UL << (shift & 63)) - (1UL << ((tie - 1) & 63));
  const int odd = tie && ((ulong)v & fraction) == 0 ? y & 1 : 0;
  return (uchar)clamp(y - odd + increment, low, high);
}

/* Accumulator over raw bytes to uint8: one unsigned ACC_BITS x MUL_BITS product and one 64-bit addition. The accumulator
 * is made unsigned by 2^(ACC_BITS - 1); the host has taken m times that off the offset (packing.py). */
uchar requantise(int a, uint m, long offset, int shift, int tie, int increment, int low, int high)
{
  const uint unsigned_a = ((uint)a + (1u << (ACC_BITS - 1))) & BITS(ACC_BITS);
  const ulong product = (ulong)unsigned_a * (ulong)(m & BITS(MUL_BITS));
  return finish((long)product + offset, shift, tie, increment, low, high);
}

/* 8 x MUL_BITS bits in logic: eight rows, written out so that no multiplier is taken for them. */
ulong product_in_logic(uchar x, uint m)
{
  const ulong row = m & BITS(MUL_BITS);
  const ulong pair0 = (x & 1 ? row : 0) + (x & 2 ? row << 1 : 0), pair1 = (x & 4 ? row << 2 : 0) + (x & 8 ? row << 3 : 0);
  const ulong pair2 = (x & 16 ? row << 4 : 0) + (x & 32 ? row << 5 : 0);
  const ulong pair3 = (x & 64 ? row << 6 : 0) + (x & 128 ? row << 7 : 0);
  return (pair0 + pair1) + (pair2 + pair3);
}

/* Residual addition: an 8 x MUL_BITS product in a multiplier, one in logic. */
uchar add_rule(uchar y, uchar r, uint first, uint second, long offset, int shift, int tie, int increment, int low, int high)
{
  const ulong sum = (ulong)y * (ulong)(first & BITS(MUL_BITS)) + product_in_logic(r, second);
  return finish((long)sum + offset, shift, tie, increment, low, high);
}

/* Two products that share the activation, in one signed 18x19 multiplier (after Langhammer et al., FPL 2019):
 * (w1 * 2^10 + w0) * a. The ten low bits are those of w0 * a; what it carries into the high part is six bits, found
 * by a 6x6-bit product of low bits in logic. Exact for every uint8 a and int8 w0, w1 (an exhaustive test). */
int2 multiply_pair(uchar a, char w0, char w1)
{
  const int packed = NARROW((int)w1 * 1024 + w0, 19);
  const int product = NARROW(packed * (int)a, 28);      /* the multiplier: 19 x 9 bits, both signed */
  const int high = product >> 10;                       /* 18 bits: w1 * a + floor(w0 * a / 1024) */
  const int low6 = (((int)w1 & 63) * ((int)a & 63)) & 63;   /* logic: only six bits are kept */
  const int carry = ((high - low6) << 26) >> 26;        /* floor(w0 * a / 1024), sign extended */
  return (int2)((carry << 10) | (product & 1023), high - carry);
}
