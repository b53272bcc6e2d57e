// One convolution as an implicit matrix product: output pixels x bytes of the window x output channels.
//
// This file is included once per shape; the generator defines before each inclusion:
//   ID            number of the shape
//   CIN, COUT     bytes per pixel of the source and of the output (channels, padded)
//   ROWS, SEGMENT the window is ROWS runs of SEGMENT contiguous bytes (a multiple of 4; weights past the end are 0)
//   ROW_TAPS      runs per kernel row: 1, or the kernel's width when a run is one pixel's group of channels
//   STRIDE_Y/X    strides;  PITCH, OUT_PITCH, RES_PITCH  pixels per stored row of source, output and residual
//   OW            width of the output map
//   MR, NV        pixels and 16-channel vectors of one register tile
//   ONE_ROW       1: pixels of a tile are evenly spaced in the source
//   PIXELS_OUTER  1: for each tile of pixels all panels of the task; 0: for each panel all tiles
//   GROUP_OUT/IN  output channels of a convolution group, and how far its source channels are from the last group's
//   RESIDUAL      1: a second tensor is added after requantisation
//   CONTIGUOUS    1: pixels' windows follow each other in memory (1x1, stride 1), and there are many
//   AHEAD         1: fetch the next task's weights meanwhile
//   BLOCK         (portable code) products summed in float before they move to int: at most 512, so sums are exact
//
// Weights are packed per panel of 16*NV output channels: FAST [step of 4 bytes][vector][16 channels][4 bytes], else
// [byte][channel]. Parameters of a panel: float64 slopes, float64 intercepts, in the order the packing instructions need
// (fpga_ops/vector/packing.py).

#define PANEL (NV * 16)
#define PARAMETERS (PANEL * 2) // doubles
#define STEPS (ROWS * SEGMENT / 4)
#if ONE_ROW
#define SOURCE(i) (first + (i) * STRIDE_X * CIN)
#else
#define SOURCE(i) pixel[i]
#endif
#if OUT_PITCH == OW
#define PLACE(m) ((long)(m) * COUT)
#else
#define PLACE(m) (((long)((m) / OW) * OUT_PITCH + (m) % OW) * COUT)
#endif
#if RES_PITCH == OW
#define RES_PLACE(m) ((long)(m) * COUT)
#else
#define RES_PLACE(m) (((long)((m) / OW) * RES_PITCH + (m) % OW) * COUT)
#endif

INLINE void JOIN(tile_, ID)(G const uchar* restrict source, G const int16* restrict weights,
                            G const double* restrict parameters, G uchar* restrict output,
                            G const uchar* restrict residual, G const long* restrict rule, const int m,
                            G const char* ahead)
{
#if ONE_ROW
  G const uchar* first = source + ((m / OW) * STRIDE_Y * PITCH + (m % OW) * STRIDE_X) * CIN;
#else
  G const uchar* pixel[MR];
  #pragma unroll
  for (int i = 0; i < MR; ++i)
    pixel[i] = source + (((m + i) / OW) * STRIDE_Y * PITCH + ((m + i) % OW) * STRIDE_X) * CIN;
#endif
  int16 sum[MR][NV];
  #pragma unroll
  for (int i = 0; i < MR; ++i)
    #pragma unroll
    for (int j = 0; j < NV; ++j) sum[i][j] = 0;

#if FAST
  // what the tile ends with is mostly in the third-level cache: fetched now, it is there when the products are done
  #pragma unroll
  for (int i = 0; i < MR; ++i) {
#if RESIDUAL
    FETCH_TO_READ(residual + RES_PLACE(m + i));
#endif
    FETCH_TO_WRITE(output + PLACE(m + i));
  }
  for (int row = 0; row < ROWS; ++row) {
    const int offset = (row / ROW_TAPS) * PITCH * CIN + (row % ROW_TAPS) * CIN;
    #pragma unroll 2
    for (int k = 0; k < SEGMENT; k += 4) {
      int16 w[NV];
      #pragma unroll
      for (int j = 0; j < NV; ++j) w[j] = weights[j];
      weights += NV;
#if AHEAD
      FETCH_AHEAD(ahead);
      ahead += 64;
#endif
#if CONTIGUOUS
      FETCH_TO_READ(first + MR * CIN + 16 * k); // the next tiles' pixels
#endif
      #pragma unroll
      for (int i = 0; i < MR; ++i) {
        const int16 bytes = as_int(vload4(0, SOURCE(i) + offset + k));
        #pragma unroll
        for (int j = 0; j < NV; ++j)
          sum[i][j] = dot_u8s8(sum[i][j], __builtin_astype(bytes, char64), __builtin_astype(w[j], char64));
      }
    }
  }
#else
  G const char16* taps = (G const char16*)weights;
  for (int block = 0; block < ROWS * SEGMENT / BLOCK; ++block) {
    const int row = block / (SEGMENT / BLOCK);
    const int offset = (row / ROW_TAPS) * PITCH * CIN + (row % ROW_TAPS) * CIN + block % (SEGMENT / BLOCK) * BLOCK;
    float16 part[MR][NV];
    #pragma unroll
    for (int i = 0; i < MR; ++i)
      #pragma unroll
      for (int j = 0; j < NV; ++j) part[i][j] = 0.0f;
    #pragma unroll 2
    for (int k = 0; k < BLOCK; ++k) {
      float16 w[NV];
      #pragma unroll
      for (int j = 0; j < NV; ++j) w[j] = convert_float16(taps[j]);
      taps += NV;
      #pragma unroll
      for (int i = 0; i < MR; ++i) {
        const float16 value = (float)SOURCE(i)[offset + k];
        #pragma unroll
        for (int j = 0; j < NV; ++j) part[i][j] = fma(value, w[j], part[i][j]);
      }
    }
    #pragma unroll
    for (int i = 0; i < MR; ++i)
      #pragma unroll
      for (int j = 0; j < NV; ++j) sum[i][j] += convert_int16(part[i][j]);
  }
#endif

  // requantise, add, store; constants are read once for all pixels, so each vector goes through all of them in turn
#if FAST && NV > 1
  short32 words[MR][NV / 2];
  #pragma unroll
  for (int j = 0; j < NV; j += 2)
    #pragma unroll
    for (int i = 0; i < MR; ++i)
      words[i][j / 2] =
          pack_int_to_short(requantise16(sum[i][j], parameters + 16 * j, parameters + PANEL + 16 * j, rule),
                            requantise16(sum[i][j + 1], parameters + 16 * j + 16, parameters + PANEL + 16 * j + 16, rule));
  uchar64 z[MR];
  #pragma unroll
  for (int i = 0; i < MR; ++i) {
    z[i] = pack_short_to_uchar(words[i][0], words[i][NV / 2 - 1]); // NV == 2: each 8 bytes twice
#if RESIDUAL
    G const uchar* other = residual + RES_PLACE(m + i);
#if NV == 4
    z[i] = add64(z[i], *(G const uchar64*)other, rule);
#else
    const long4 r = *(G const long4*)other;
    z[i] = add64(z[i], __builtin_astype((long8)(r.s0, r.s0, r.s1, r.s1, r.s2, r.s2, r.s3, r.s3), uchar64), rule);
#endif
#endif
  }
  #pragma unroll
  for (int i = 0; i < MR; ++i) {
    G uchar* out = output + PLACE(m + i);
#if NV == 4
    *(G uchar64*)out = z[i];
#else
    *(G long4*)out = __builtin_astype(z[i], long8).s0246;
#endif
  }
#else
  #pragma unroll
  for (int i = 0; i < MR; ++i) {
    G uchar* out = output + PLACE(m + i);
    G const uchar* other = residual + RES_PLACE(m + i);
    #pragma unroll
    for (int j = 0; j < NV; ++j) {
      uchar16 z =
          convert_uchar16(requantise16(sum[i][j], parameters + 16 * j, parameters + PANEL + 16 * j, rule));
#if RESIDUAL
      z = add16(z, vload16(j, other), rule);
#endif
      vstore16(z, j, out);
    }
  }
#endif
}

// Output pixels m0 to m1 (at least MR of them) and panels p0 to p1. `source` is the first byte of pixel 0's window.
SEPARATE void JOIN(conv_, ID)(G const uchar* restrict source, G const char* restrict weights,
                              G const double* restrict parameters, G uchar* restrict output,
                              G const uchar* restrict residual, G const long* restrict rule,
                              const int m0, const int m1, const int p0, const int p1, G const char* ahead)
{
#if FAST && AHEAD
  G const char* stop = ahead + FETCH_AT_MOST;
#endif
#if PIXELS_OUTER
  for (int m = m0; m < m1; m += MR)
    for (int p = p0; p < p1; ++p) {
#else
  for (int p = p0; p < p1; ++p)
    for (int m = m0; m < m1; m += MR) {
#endif
      // the last tile overlaps its neighbour, which costs less than masks: equal bytes are written twice
      JOIN(tile_, ID)(source + p * PANEL / GROUP_OUT * GROUP_IN, (G const int16*)weights + (long)p * STEPS * NV,
                      parameters + (long)p * PARAMETERS, output + p * PANEL, residual + p * PANEL, rule,
                      min(m, m1 - MR), ahead);
#if FAST && AHEAD
      ahead = ahead < stop ? ahead + STEPS * 64 : ahead;
#endif
    }
}

#undef PANEL
#undef PARAMETERS
#undef STEPS
#undef SOURCE
#undef PLACE
#undef RES_PLACE
