// The end of a classifier, from stored bytes to float32 scores. fpga_ops/ir/classifier_head.py is its definition, to the bit, so the order
// of each sum counts and nothing may be contracted to a fused multiply-add. The generator defines before this file
// HEAD_INPUTS, HEAD_OUTPUTS, and as 0 or 1 HEAD_GEMM, HEAD_SOFTMAX, HEAD_POWERS. `table`: what each byte stands for (with
// HEAD_POWERS its power), then with HEAD_GEMM bias[outputs] and weights[outputs][inputs].
#pragma OPENCL FP_CONTRACT OFF

// (Not as an array of sums: the CPU driver of 2026.2 compiles that wrongly.)
// Each eighth of TERM(0) ... TERM(count - 1) in turn, then the eight sums by halves.
#define IN_LANE(TERM, i, count) ((i) < (count) ? TERM(i) : 0.0)
#define ORDERED_SUM(sum, TERM, count) \
  double8 lanes = 0.0; \
  for (int i = 0; i < (count); i += 8) \
    lanes += (double8)(IN_LANE(TERM, i, count), IN_LANE(TERM, i + 1, count), IN_LANE(TERM, i + 2, count), \
                       IN_LANE(TERM, i + 3, count), IN_LANE(TERM, i + 4, count), IN_LANE(TERM, i + 5, count), \
                       IN_LANE(TERM, i + 6, count), IN_LANE(TERM, i + 7, count)); \
  const double4 halves = lanes.lo + lanes.hi; \
  const double2 quarters = halves.lo + halves.hi; \
  const double sum = quarters.x + quarters.y;

#if HEAD_SOFTMAX && !HEAD_POWERS
constant double TAYLOR[] = {EXPONENTIAL_TAYLOR};

INLINE double exponential(const double x)
{
  const double bounded = fmax(x, EXPONENTIAL_LEAST), whole = rint(bounded * EXPONENTIAL_LOG2_E);
  const double rest = (bounded - whole * EXPONENTIAL_LN2_HIGH) - whole * EXPONENTIAL_LN2_LOW;
  double sum = TAYLOR[0];
  for (int n = 1; n < (int)(sizeof TAYLOR / sizeof TAYLOR[0]); ++n) sum = sum * rest + TAYLOR[n];
  return sum * as_double(((long)whole + 1023) << 52);
}
#define POWER(i) exponential(scores[i] - largest)
#else
#define POWER(i) table[stored[i]]
#endif

SEPARATE void head(G const uchar* restrict stored, G const double* restrict table, G float* restrict scores)
{
#if HEAD_GEMM
  G const double* bias = table + 256;
  for (int o = 0; o < HEAD_OUTPUTS; ++o) {
    G const double* weights = bias + HEAD_OUTPUTS + o * HEAD_INPUTS;
#define PRODUCT(i) (table[stored[i]] * weights[i])
    ORDERED_SUM(sum, PRODUCT, HEAD_INPUTS)
    scores[o] = (float)(sum + bias[o]);
  }
#elif !HEAD_POWERS
  for (int i = 0; i < HEAD_OUTPUTS; ++i) scores[i] = (float)table[stored[i]];
#endif
#if HEAD_SOFTMAX
#if !HEAD_POWERS
  double largest = scores[0];
  for (int i = 1; i < HEAD_OUTPUTS; ++i) largest = fmax(largest, (double)scores[i]);
#endif
  ORDERED_SUM(sum, POWER, HEAD_OUTPUTS)
  for (int i = 0; i < HEAD_OUTPUTS; ++i) scores[i] = (float)(POWER(i) / sum);
#endif
}
