// The inner loop's instruction on 24 independent accumulators, nothing loaded: the speed that no kernel can pass.
__attribute__((reqd_work_group_size(1, 1, 1)))
#ifdef cl_intel_vec_len_hint
__attribute__((intel_vec_len_hint(1)))
#endif
__kernel void ceiling(G const int16* source, G int16* result, const int loops)
{
#if FAST
  int16 sum[24];
  const int16 x = source[0];
#define STEP(i) sum[i] = dot_u8s8(sum[i], __builtin_astype(x, char64), __builtin_astype(x, char64))
#else
  float16 sum[24];
  const float16 x = convert_float16(source[0]) * 1e-9f;
#define STEP(i) sum[i] = fma(x, x, sum[i])
#endif
  #pragma unroll
  for (int i = 0; i < 24; ++i) sum[i] = i;
  for (int n = 0; n < loops; ++n) {
    #pragma unroll
    for (int i = 0; i < 24; ++i) STEP(i);
  }
  int16 total = 0;
  #pragma unroll
  for (int i = 0; i < 24; ++i) total += __builtin_astype(sum[i], int16);
  result[get_global_id(0)] = total;
}
