// Macros and counters of the vector kernels. The program generator (fpga_ops/vector/source.py) puts in front of this file:
// PERSISTENT (1: C11 atomics work), YIELD (1: the C library can be called); behind it the instruction set (isa/*.cl).

#define G __global
#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)
#define INLINE static inline __attribute__((always_inline))
#define SEPARATE static __attribute__((noinline))

// Bytes of weights that are fetched during a task: they share a core's cache with its own; and how far on the next begins.
#define FETCH_AT_MOST 300000
#define FETCH_STRIDE 262144
#define AS(x, type) __builtin_astype(x, type)

#if PERSISTENT
#define ATOMIC(address) ((volatile G atomic_int*)(address))
#define ADD(address, value, order) atomic_fetch_add_explicit(ATOMIC(address), value, order, memory_scope_device)
// On a busy machine the worker that is waited for may be waiting for this very core.
#define POLLS 2000
#if YIELD
int sched_yield(void); // the driver's linker finds the C library's; asked of a child process first, as the instructions are
#define GIVE_WAY() sched_yield()
#else
#define GIVE_WAY()
#endif
#define READ(address) atomic_load_explicit(ATOMIC(address), memory_order_acquire, memory_scope_device)
#endif
