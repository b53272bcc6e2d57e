// A convolution whose only reader is a max-pool: rows of the convolution live in a ring of POOL_KERNEL rows and are
// pooled while they are in the first-level cache. Included after conv.cl with the same ID; defines besides:
//   OH             rows of the convolution's output
//   POOL_KERNEL_Y/X, POOL_STRIDE_Y/X, POOL_TOP/LEFT, POOL_WIDTH   the pool's window and output width
//
#if COUT % WIDE == 0
#define STEP WIDE
#define STEP_TYPE wide
#define STEP_MAX WIDE_MAX
#else // a wider store would reach into the next row, which another task may have written
#define STEP 16
#define STEP_TYPE uchar16
#define STEP_MAX max
#endif

// Pooled rows y0 to y1; `ring` belongs to this task alone.
SEPARATE void JOIN(conv_pool_, ID)(G const uchar* restrict source, G const char* restrict weights,
                                   G const double* restrict parameters, G uchar* restrict output, const long out_pitch,
                                   G uchar* restrict ring, G const long* restrict rule, const int panels, const int y0,
                                   const int y1, G uchar* scratch)
{
  int done = -1; // the last row of the convolution that the ring holds
  for (int y = y0; y < y1; ++y) {
    const int top = max(y * POOL_STRIDE_Y - POOL_TOP, 0);
    const int bottom = min(y * POOL_STRIDE_Y - POOL_TOP + POOL_KERNEL_Y, OH);
    for (int row = max(top, done + 1); row < bottom; ++row)
      JOIN(conv_, ID)(source, weights, parameters, ring + (long)(row % POOL_KERNEL_Y - row) * OW * COUT, ring, rule,
                      row * OW, (row + 1) * OW, 0, panels, weights, weights, scratch);
    done = bottom - 1;
    for (int x = 0; x < POOL_WIDTH; ++x) {
      const int left = max(x * POOL_STRIDE_X - POOL_LEFT, 0);
      const int right = min(x * POOL_STRIDE_X - POOL_LEFT + POOL_KERNEL_X, OW);
      for (int c = 0; c < COUT; c += STEP) {
        STEP_TYPE best = 0;
        for (int row = top; row < bottom; ++row) {
          G const uchar* line = ring + ((long)(row % POOL_KERNEL_Y) * OW) * COUT + c;
          for (int u = left; u < right; ++u) best = STEP_MAX(best, *(G const STEP_TYPE*)(line + (long)u * COUT));
        }
        *(G STEP_TYPE*)(output + y * out_pitch + (long)x * COUT + c) = best;
      }
    }
  }
}

#undef STEP
#undef STEP_TYPE
#undef STEP_MAX
