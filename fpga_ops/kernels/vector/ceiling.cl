// The inner loop's instructions on independent accumulators, nothing loaded: the speed that no kernel can pass with them.
// Each sum is its own operand, or the compiler would multiply once for all of them.
__attribute__((reqd_work_group_size(1, 1, 1)))
#ifdef cl_intel_vec_len_hint
__attribute__((intel_vec_len_hint(1)))
#endif
__kernel void ceiling(G const int16* source, G int16* result, const int loops)
{
  sums sum[CHAINS];
  const int16 x = source[0];
#if X86
#define STEP(i) sum[i] = add_products(sum[i], x, sum[i])
#else
#define STEP(i) sum[i] = add_products(sum[i], as_float(x.s0), sum[i])
#endif
  #pragma unroll
  for (int i = 0; i < CHAINS; ++i) sum[i] = i;
  for (int n = 0; n < loops; ++n) {
    #pragma unroll
    for (int i = 0; i < CHAINS; ++i) STEP(i);
  }
  int16 total = 0;
  #pragma unroll
  for (int i = 0; i < CHAINS; ++i) total += __builtin_astype(sum[i], int16);
  result[get_global_id(0)] = total;
}
