// What the x86 instruction sets have in common. Their instructions are reached through LLVM's names for them, which OpenCL
// does not document and which end the process where CPU or compiler lack them: fpga_ops/vector/isa.py lets a child process
// try first. A vector holds 16 channels, in two halves where registers have 256 bits. Each set defines
//   add_products(sum, x, weights)   four bytes of the window, spread to all channels, times four weights of each channel
//   add_pairs(sum, words, weights)  the same for two words
//   SATURATES                       1: add_products must not be given every step (conv.cl); then also
//   add_two_steps(sum, x, even, odd)  two steps, whose products of two neighbours and two are summed in 16 bits
// x86_256.cl and x86_512.cl for the sets of so many bits
//   shift_right(value, bits)        of bits below 32, which OpenCL's >> would have to make so first
//   nearest_float(value)            the nearest integers, ties to even, of values within +-2^22
//   WIDE                            bytes of the vectors that need no products
//   weigh_bytes(first, second, pairs)  each two bytes times two constants of 0 to 255, summed (x86_512.cl alone: winograd.cl)
// and here stands for all of them
//   add_neighbours(bytes)           sums of two neighbours of 32 bytes
//   beside(pairs)                   of each two steps of two pairs, those of the other
//   which_steps(pairs)              a bit for each two pairs of 16 that hold one which is true (all bits set)
//   put_steps(list, bits, first)    the numbers of the bits, behind a list; its end (source.py writes `numbers_of_bits`)
typedef char char64 __attribute__((ext_vector_type(64)));
typedef char char32 __attribute__((ext_vector_type(32)));
typedef uchar uchar64 __attribute__((ext_vector_type(64)));
typedef uchar uchar32 __attribute__((ext_vector_type(32)));
typedef ushort ushort32 __attribute__((ext_vector_type(32)));
typedef short short32 __attribute__((ext_vector_type(32)));

typedef int16 sums;
typedef int16 four_bytes;
typedef int16 step_weights;
typedef short widened;
#define WIDEN convert_short16
#define FLUSHED 0
#define STEP_BYTES 4
#define X86 1

INLINE int16 spread_bytes(G const uchar* x)
{
  return as_int(vload4(0, x));
}

// Into the first-level cache, to be read or written soon; and into the second-level cache.
#define FETCH_TO_READ(address) __builtin_prefetch((const void*)(address), 0, 3)
#define FETCH_TO_WRITE(address) __builtin_prefetch((const void*)(address), 1, 3)
#define FETCH_AHEAD(address) __builtin_prefetch((const void*)(address), 0, 2)

// For sets that saturate; in 256 bits, which all of them have.
short16 add_bytes(uchar32, char32) __asm__("llvm.x86.avx2.pmadd.ub.sw");
int vmovmskps(float8) __asm__("llvm.x86.avx.movmsk.ps.256");

INLINE short16 add_neighbours(const uchar32 bytes)
{
  return add_bytes(bytes, (char32)(char)1);
}

INLINE uint which_steps(const short16 pairs)
{
  return (uint)vmovmskps(as_float8(as_int8(pairs) != 0));
}

enum { TWOS, NARROW, WIDE_STEPS, KINDS }; // of steps (conv.cl)

INLINE short16 beside(const short16 pairs)
{
  return pairs.s23016745ab89efcd;
}

INLINE G ushort* put_steps(G ushort* list, const uint bits, const int first)
{
  vstore8(convert_ushort8(as_uchar8(numbers_of_bits[bits])) + (ushort)first, 0, list);
  return list + popcount(bits);
}
