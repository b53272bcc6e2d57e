// Types, instructions and counters of the vector kernels. The program generator (fpga_ops/vector/source.py) puts in
// front of this file: FAST (1: the CPU's AVX-512 VNNI instruction may be used), PERSISTENT (1: C11 atomics work), YIELD (1: the C
// library can be called).

#define G __global
#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)
#define INLINE static inline __attribute__((always_inline))
#define SEPARATE static __attribute__((noinline))

#if FAST
// LLVM's own names of the instructions: not documented for OpenCL, and fatal on a CPU or a compiler without them.
// fpga_ops/vector/int8_dot.py asks a child process first, and the portable code below gives the same bits.
typedef char char64 __attribute__((ext_vector_type(64)));
typedef uchar uchar64 __attribute__((ext_vector_type(64)));
typedef uchar uchar32 __attribute__((ext_vector_type(32)));
typedef short short32 __attribute__((ext_vector_type(32)));
typedef ushort ushort32 __attribute__((ext_vector_type(32)));

int16 dot_u8s8(int16, char64, char64) __asm__("llvm.x86.avx512.vpdpbusd.512");
int16 dot_s16s16(int16, short32, short32) __asm__("llvm.x86.avx512.vpdpwssd.512");
short32 pack_int_to_short(int16, int16) __asm__("llvm.x86.avx512.packssdw.512");
uchar64 pack_short_to_uchar(short32, short32) __asm__("llvm.x86.avx512.packuswb.512");
short32 high_product(short32, short32) __asm__("llvm.x86.avx512.pmulh.w.512");
ushort32 high_product_unsigned(ushort32, ushort32) __asm__("llvm.x86.avx512.pmulhu.w.512");

// Bytes 0-7 (LOW) or 8-15 (HIGH) of each 128-bit lane, times 256 as 16-bit words: the inverse of pack_short_to_uchar.
#define WORDS_LOW(v) __builtin_astype(__builtin_shufflevector((uchar64)(uchar)0, v, \
  0,64,1,65,2,66,3,67,4,68,5,69,6,70,7,71, 16,80,17,81,18,82,19,83,20,84,21,85,22,86,23,87, \
  32,96,33,97,34,98,35,99,36,100,37,101,38,102,39,103, 48,112,49,113,50,114,51,115,52,116,53,117,54,118,55,119), ushort32)
#define WORDS_HIGH(v) __builtin_astype(__builtin_shufflevector((uchar64)(uchar)0, v, \
  8,72,9,73,10,74,11,75,12,76,13,77,14,78,15,79, 24,88,25,89,26,90,27,91,28,92,29,93,30,94,31,95, \
  40,104,41,105,42,106,43,107,44,108,45,109,46,110,47,111, 56,120,57,121,58,122,59,123,60,124,61,125,62,126,63,127), ushort32)
// Into the first-level cache, to be read or written soon; and into the second-level cache.
#define FETCH_TO_READ(address) __builtin_prefetch((const void*)(address), 0, 3)
#define FETCH_TO_WRITE(address) __builtin_prefetch((const void*)(address), 1, 3)
#define FETCH_AHEAD(address) __builtin_prefetch((const void*)(address), 0, 2)
#define FETCH_AT_MOST 300000 // bytes of the next task's weights: they share that cache with this task's
#endif

#if PERSISTENT
#define ATOMIC(address) ((volatile G atomic_int*)(address))
#define ADD(address, value, order) atomic_fetch_add_explicit(ATOMIC(address), value, order, memory_scope_device)
// On a busy machine the worker that is waited for may be waiting for this very core.
#define POLLS 2000
#if YIELD
int sched_yield(void); // the driver's linker finds the C library's; asked of a child process first, like FAST
#define GIVE_WAY() sched_yield()
#else
#define GIVE_WAY()
#endif
#define READ(address) atomic_load_explicit(ATOMIC(address), memory_order_acquire, memory_scope_device)
#endif

// ---- the requantisation rule in standard C (see fpga_ops/ir/network.py); constants are 16-bit, shifts floor

INLINE short16 requantise16(int16 accumulator, int pre_shift, int16 shift, short16 multiplier)
{
  return mul_hi(convert_short16_sat((accumulator << pre_shift) >> shift), multiplier) >> (short)4;
}

INLINE uchar16 clip16(short16 value, G const long* bounds)
{
  return convert_uchar16_sat(clamp(value, (short16)(short)bounds[0], (short16)(short)bounds[1]));
}

// `rule`: multiplier, residual multiplier, offset, fraction bits
INLINE short16 add16(uchar16 y, uchar16 r, G const long* rule)
{
  const ushort16 first = mul_hi(convert_ushort16(y) << (ushort)8, (ushort16)(ushort)rule[0]);
  const ushort16 second = mul_hi(convert_ushort16(r) << (ushort)8, (ushort16)(ushort)rule[1]);
  return as_short16(first + second + (ushort16)(ushort)rule[2]) >> (short16)(short)rule[3];
}

#if FAST
// ---- the same for panels of 64 or 32 channels, in the order of the packing instructions

// `shift` and `multiplier` of the 32 channels; accumulators hold their bias
INLINE short32 requantise32(int16 a, int16 b, int pre_shift, G const int* shift, G const short32* multiplier)
{
  const short32 t = pack_int_to_short((a << pre_shift) >> vload16(0, shift), (b << pre_shift) >> vload16(1, shift));
  return high_product(t, *multiplier) >> (short)4;
}

// `parameters` of a panel of 64 channels
INLINE uchar64 requantise64(int16 a, int16 b, int16 c, int16 d, int pre_shift, G const int* parameters)
{
  G const short32* multiplier = (G const short32*)(parameters + 128);
  return pack_short_to_uchar(requantise32(a, b, pre_shift, parameters + 64, multiplier),
                             requantise32(c, d, pre_shift, parameters + 96, multiplier + 1));
}

INLINE uchar64 bound64(uchar64 value, G const long* bounds)
{
  return __builtin_elementwise_min(__builtin_elementwise_max(value, (uchar64)(uchar)bounds[0]),
                                   (uchar64)(uchar)bounds[1]);
}

INLINE uchar64 add64(uchar64 y, uchar64 r, G const long* rule)
{
  const ushort32 first = (ushort)rule[0], second = (ushort)rule[1], addend = (ushort)rule[2];
  const short32 bits = (short)rule[3];
  const ushort32 low = high_product_unsigned(WORDS_LOW(y), first) + high_product_unsigned(WORDS_LOW(r), second);
  const ushort32 high = high_product_unsigned(WORDS_HIGH(y), first) + high_product_unsigned(WORDS_HIGH(r), second);
  return pack_short_to_uchar(__builtin_astype(low + addend, short32) >> bits,
                             __builtin_astype(high + addend, short32) >> bits);
}
#endif
