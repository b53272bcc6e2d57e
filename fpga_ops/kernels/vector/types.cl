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

// ---- the rules (see fpga_ops/ir/network.py) in IEEE float64: one rounding of the product and sum, ties to even. A layer's
// `rule`: slopes of both operands and intercept of a sum, then coarse constant, increment, low and high of the
// requantisation, then those of the sum; real numbers as the bits of a double.
#pragma OPENCL EXTENSION cl_khr_fp64 : enable
#define ENDS 3
#define SUM_ENDS 7

INLINE int16 finish16(const double16 value, G const long* ends)
{
  const double coarse = as_double(ends[0]);
  const int16 rounded = convert_int16_rte((value + coarse) - coarse);
  return clamp(rounded + (int)ends[1], (int16)(int)ends[2], (int16)(int)ends[3]);
}

// `slopes`, `intercepts`: of 16 channels
INLINE int16 requantise16(const int16 accumulator, G const double* slopes, G const double* intercepts, G const long* rule)
{
  return finish16(fma(convert_double16(accumulator), vload16(0, slopes), vload16(0, intercepts)), rule + ENDS);
}

INLINE uchar16 add16(const uchar16 y, const uchar16 r, G const long* rule)
{
  const double16 slope = as_double(rule[0]), other = as_double(rule[1]), intercept = as_double(rule[2]);
  const double16 part = fma(convert_double16(r), other, intercept);
  return convert_uchar16(finish16(fma(convert_double16(y), slope, part), rule + SUM_ENDS));
}

#if FAST
INLINE uchar64 add64(const uchar64 y, const uchar64 r, G const long* rule)
{
  uchar64 sum;
  #pragma unroll
  for (int i = 0; i < 4; ++i)
    ((uchar16*)&sum)[i] = add16(((const uchar16*)&y)[i], ((const uchar16*)&r)[i], rule);
  return sum;
}
#endif
