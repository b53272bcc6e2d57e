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
//   FIXED, FLOAT_SUM  1 if the convolution ends in integers, the sum in float32 (endings.cl)
//   PLAIN, PLAIN_SUM  1 if the convolution, the sum has no ties or bounds to mind (endings.cl)
//   CONTIGUOUS    1: pixels' windows follow each other in memory (1x1, stride 1), and there are many
//   AHEAD         1: fetch weights that come next meanwhile
//   DEFERRED      1: a tile's sums are kept, and end while the next tile is multiplied (the window is one run)
//   BLOCK         bytes of a run that are multiplied before sums move to int, where the instruction set has FLUSHED
//   CHECKED       1: the pixels decide which steps are summed in 16 bits, where the instruction set has SATURATES
//   ROW_LIST, LISTS  ushorts of the lists of steps of a row of the window, and of all of a tile's, if CHECKED
//   LIMIT_BYTES   of the limits of two bytes, and again of four, in front of the weights, if CHECKED
//
// Weights are packed per panel of 16*NV output channels, `rule[PANEL_BYTES]` bytes from each other: [step of STEP_BYTES bytes][vector]
// [16 channels][bytes of the step]. Parameters of a panel: float64 slopes, then float64
// intercepts of its channels, or if FIXED what endings.cl says.

#define PANEL (NV * 16)
#define PARAMETERS (PANEL * 2) // doubles
#define WORDS (SATURATES && !CHECKED) // bytes of the window as words, two of them a step: always exact
#define STEP (WORDS ? 2 : STEP_BYTES)
#define STEPS (ROWS * SEGMENT / STEP)
#define ENDED ((MR * NV + STEPS - 1) / STEPS) // vectors that end in a step, if DEFERRED
#define ENDING ((MR * NV + ENDED - 1) / ENDED) // steps in which some do
#if AHEAD
#define FETCH_STEP() do { FETCH_AHEAD(ahead); ahead += pace; } while (0)
#else
#define FETCH_STEP()
#endif
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

#if WORDS || FLUSHED
// The windows of a tile as words or floats, [pixel][byte of the window].
INLINE void JOIN(widen_, ID)(G const uchar* restrict source, G widened* restrict words, const int m)
{
  #pragma unroll 1
  for (int i = 0; i < MR; ++i) {
    G const uchar* pixel = source + (((m + i) / OW) * STRIDE_Y * PITCH + ((m + i) % OW) * STRIDE_X) * CIN;
    for (int row = 0; row < ROWS; ++row, words += SEGMENT) {
      G const uchar* run = pixel + (row / ROW_TAPS) * PITCH * CIN + (row % ROW_TAPS) * CIN;
      // where a run is no multiple of 16 bytes, what is written beyond it is written again or not read
      for (int k = 0; k < SEGMENT; k += 16) vstore16(WIDEN(vload16(0, run + k)), 0, words + k);
    }
  }
}
#endif

#if CHECKED
// Two products of bytes with signed bytes are summed in 16 bits, which hold them if the two bytes of the window are
// together at most a limit that follows from the weights (fpga_ops/vector/packing.py); and the four of two steps beside
// each other, if these four bytes are. After a ReLU they mostly are, in all pixels of the tile. So there are steps that
// are summed in twos before 32 bits are needed, narrow ones which are not, and wide ones, which are multiplied as words.
// Lists them for each row of the window: how many of each kind, for all rows; then each row's, kind by kind, written by eights
// (shapes.py says how long a row's are, ROW_LIST, and all of them, LISTS).
#define ROW_STEPS (SEGMENT / 4)
#define LIST(row, kind) \
  (lists + KINDS * ROWS + (row) * ROW_LIST + ((kind) == TWOS ? 0 : ROW_STEPS / 2 + 8 + ((kind) - NARROW) * (ROW_STEPS + 8)))
// What wide steps multiply: bytes 0 and 2 as words, or 1 and 3; [pixel][side][step of the window].
#define SIDES(i, side) (((i) * 2 + (side)) * STEPS)
INLINE void JOIN(list_steps_, ID)(G const uchar* restrict source, G const short16* restrict limits,
                                  G ushort* restrict lists, G int* restrict words, const int m)
{
#if ONE_ROW
  G const uchar* first = source + ((m / OW) * STRIDE_Y * PITCH + (m % OW) * STRIDE_X) * CIN;
#else
  G const uchar* pixel[MR];
  #pragma unroll
  for (int i = 0; i < MR; ++i)
    pixel[i] = source + (((m + i) / OW) * STRIDE_Y * PITCH + ((m + i) % OW) * STRIDE_X) * CIN;
#endif
  for (int row = 0; row < ROWS; ++row) {
    G ushort *twos = LIST(row, TWOS), *narrow = LIST(row, NARROW), *wide = LIST(row, WIDE_STEPS);
    for (int k = 0; k < SEGMENT; k += 32, ++limits) {
      short16 most = 0;
      #pragma unroll
      for (int i = 0; i < MR; ++i)
        most = __builtin_elementwise_max(most, add_neighbours(*(G const uchar32*)(SOURCE(i) + row * PITCH * CIN + k)));
      const uint one = which_steps(most + beside(most) > limits[LIMIT_BYTES / 32]);
      const uint over = one ? one & which_steps(most > *limits) : 0;
#if PIXELS_OUTER // else they would be too many to keep
      if (over) {
        #pragma unroll
        for (int i = 0; i < MR; ++i) {
          const ushort16 bytes = AS(*(G const uchar32*)(SOURCE(i) + row * PITCH * CIN + k), ushort16);
          vstore8(AS(bytes & (ushort)255, int8), 0, words + SIDES(i, 0) + row * ROW_STEPS + k / 4);
          vstore8(AS(bytes >> (ushort)8, int8), 0, words + SIDES(i, 1) + row * ROW_STEPS + k / 4);
        }
      }
#endif
      twos = put_steps(twos, ~one & 0x55, k / 4);
      narrow = put_steps(narrow, one & ~over, k / 4);
      wide = put_steps(wide, over, k / 4);
    }
    lists[row * KINDS + TWOS] = (ushort)(twos - LIST(row, TWOS));
    lists[row * KINDS + NARROW] = (ushort)(narrow - LIST(row, NARROW));
    lists[row * KINDS + WIDE_STEPS] = (ushort)(wide - LIST(row, WIDE_STEPS));
  }
}
#endif

// Vector j of pixel m: requantise, add, store.
INLINE void JOIN(end_, ID)(const int16 sum, G const double* restrict parameters, G uchar* restrict output,
                           G const uchar* restrict residual, G const long* restrict rule, const float_rule float_sum,
                           const int m, const int j)
{
  int16 z = requantise_vector(sum, parameters, j, PANEL, rule, FIXED, PLAIN);
#if RESIDUAL
  const uchar16 r = vload16(j, residual + RES_PLACE(m));
  z = FLOAT_SUM ? add_float16(z, r, float_sum) : add16(z, r, rule, PLAIN_SUM);
#endif
  vstore16(convert_uchar16(z), j, output + PLACE(m));
}

// If DEFERRED, the sums of the tile before are in `kept`, and this tile's afterwards.
INLINE void JOIN(tile_, ID)(G const uchar* restrict source, G const char* restrict weights,
                            G const double* restrict parameters, G uchar* restrict output,
                            G const uchar* restrict residual, G const long* restrict rule, const int m,
                            G const char* ahead, const int pace, G const widened* words, G const ushort* lists, int16* kept,
                            unfinished* before)
{
  const float_rule float_sum = read_float_rule(rule);
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

  // what the tile ends with is mostly in the third-level cache: fetched now, it is there when the products are done
  #pragma unroll
  for (int i = 0; i < MR; ++i) {
#if RESIDUAL
    FETCH_TO_READ(residual + RES_PLACE(m + i));
#endif
    FETCH_TO_WRITE(output + PLACE(m + i));
  }
  G const step_weights* taps = (G const step_weights*)weights;
#if CHECKED
  for (int row = 0; row < ROWS; ++row, taps += ROW_STEPS * NV) {
    G const ushort* list = LIST(row, TWOS);
    #pragma unroll 1
    for (int left = lists[row * KINDS + TWOS]; left; --left, ++list) {
      const int step = *list, offset = row * PITCH * CIN + 4 * step;
      FETCH_STEP();
      FETCH_STEP();
      #pragma unroll
      for (int j = 0; j < NV; ++j) {
        const step_weights even = taps[step * NV + j], odd = taps[(step + 1) * NV + j];
        #pragma unroll
        for (int i = 0; i < MR; ++i)
          sum[i][j] = add_two_steps(sum[i][j], SOURCE(i) + offset, even, odd);
      }
    }
    list = LIST(row, NARROW);
    #pragma unroll 1
    for (int left = lists[row * KINDS + NARROW]; left; --left, ++list) {
      const int step = *list, offset = row * PITCH * CIN + 4 * step;
      step_weights w[NV];
      #pragma unroll
      for (int j = 0; j < NV; ++j) w[j] = taps[step * NV + j];
      FETCH_STEP();
      #pragma unroll
      for (int i = 0; i < MR; ++i) {
        const four_bytes x = spread_bytes(SOURCE(i) + offset);
        #pragma unroll
        for (int j = 0; j < NV; ++j) sum[i][j] = add_products(sum[i][j], x, w[j]);
      }
    }
    list = LIST(row, WIDE_STEPS);
    #pragma unroll 1
    for (int left = lists[row * KINDS + WIDE_STEPS]; left; --left, ++list) {
      const int step = *list;
      FETCH_STEP();
      #pragma unroll
      for (int side = 0; side < 2; ++side) { // bytes 0 and 2 as words, then 1 and 3
        step_weights w[NV];
        #pragma unroll
        for (int j = 0; j < NV; ++j) {
          const short32 both = AS(taps[step * NV + j], short32);
          w[j] = AS((side ? both : both << (short)8) >> (short)8, int16);
        }
        #pragma unroll
        for (int i = 0; i < MR; ++i) {
#if PIXELS_OUTER
          const int16 x = ((G const int*)words)[SIDES(i, side) + row * ROW_STEPS + step];
#else
          const ushort32 bytes = AS(spread_bytes(SOURCE(i) + row * PITCH * CIN + 4 * step), ushort32);
          const int16 x = AS(side ? bytes >> (ushort)8 : bytes & (ushort)255, int16);
#endif
          #pragma unroll
          for (int j = 0; j < NV; ++j) sum[i][j] = add_pairs(sum[i][j], x, w[j]);
        }
      }
    }
  }
#else
  for (int block = 0; block < ROWS * SEGMENT / BLOCK; ++block) {
    const int row = block / (SEGMENT / BLOCK);
    const int offset = (row / ROW_TAPS) * PITCH * CIN + (row % ROW_TAPS) * CIN + block % (SEGMENT / BLOCK) * BLOCK;
#if FLUSHED
    sums part[MR][NV];
    #pragma unroll
    for (int i = 0; i < MR; ++i)
      #pragma unroll
      for (int j = 0; j < NV; ++j) part[i][j] = 0;
#define RUNNING part
#else
#define RUNNING sum
#endif
#if DEFERRED
    // Products need two of a core's four units for vectors, so that an ending beside them costs little.
    const unfinished last = *before;
    uint at = 0;
    #pragma unroll
    for (int part = 0; part < 2; ++part)
    #pragma unroll 1
    for (int k = part ? ENDING * STEP : 0; k < (part ? BLOCK : ENDING * STEP); k += STEP) {
      #pragma unroll
      for (int e = 0; e < (part ? 0 : ENDED); ++e, ++at)
        if (ENDING * ENDED == MR * NV || at < MR * NV)
          JOIN(end_, ID)(kept[at], last.parameters, last.output, last.residual, rule, float_sum, last.m + at / NV, at % NV);
#else
    #pragma unroll 2
    for (int k = 0; k < BLOCK; k += STEP) {
#endif
      step_weights w[NV];
      #pragma unroll
      for (int j = 0; j < NV; ++j) w[j] = taps[j];
      taps += NV;
      FETCH_STEP();
#if CONTIGUOUS
      FETCH_TO_READ(first + MR * CIN + 16 * k); // the next tiles' pixels
#endif
      #pragma unroll
      for (int i = 0; i < MR; ++i) {
#if FLUSHED
        const float x = words[i * ROWS * SEGMENT + block * BLOCK + k];
#elif WORDS
        const int16 x = *(G const int*)(words + i * ROWS * SEGMENT + block * BLOCK + k);
#else
        const four_bytes x = spread_bytes(SOURCE(i) + offset + k);
#endif
        #pragma unroll
        for (int j = 0; j < NV; ++j)
#if WORDS
          RUNNING[i][j] = add_pairs(RUNNING[i][j], x, w[j]);
#else
          RUNNING[i][j] = add_products(RUNNING[i][j], x, w[j]);
#endif
      }
    }
#if FLUSHED
    #pragma unroll
    for (int i = 0; i < MR; ++i)
      #pragma unroll
      for (int j = 0; j < NV; ++j) sum[i][j] += convert_int16(part[i][j]);
#endif
#undef RUNNING
  }
#endif

#if DEFERRED
  #pragma unroll
  for (int i = 0; i < MR; ++i)
    #pragma unroll
    for (int j = 0; j < NV; ++j) kept[i * NV + j] = sum[i][j];
  *before = (unfinished){parameters, output, residual, m};
#else
  // constants are read once for all pixels, so each vector goes through all of them in turn
  #pragma unroll
  for (int j = 0; j < NV; ++j)
    #pragma unroll
    for (int i = 0; i < MR; ++i)
      JOIN(end_, ID)(sum[i][j], parameters, output, residual, rule, float_sum, m + i, j);
#endif
}

// Output pixels m0 to m1 (at least MR of them) and panels p0 to p1. `source` is the first byte of pixel 0's window.
// `scratch` is this worker's alone. From `ahead` to `stop` weights are fetched meanwhile.
SEPARATE void JOIN(conv_, ID)(G const uchar* restrict source, G const char* restrict weights,
                              G const double* restrict parameters, G uchar* restrict output,
                              G const uchar* restrict residual, G const long* restrict rule,
                              const int m0, const int m1, const int p0, const int p1, G const char* ahead,
                              G const char* stop, G uchar* scratch)
{
  const long panel_bytes = rule[PANEL_BYTES];
  // evenly: many at a time fill the queue in which this task's own loads stand
  const long steps = (long)STEPS * (p1 - p0) * ((m1 - m0 + MR - 1) / MR);
  const int pace = (int)clamp((stop - ahead) / steps + 1, 1l, 64l);
  G widened* words = (G widened*)scratch;
  G ushort* lists = 0;
#if DEFERRED
  // before the first tile nothing is kept: what ends then is written where that tile ends later
  int16 kept[MR * NV];
  for (int i = 0; i < MR * NV; ++i) kept[i] = 0;
  unfinished last = {parameters + (long)p0 * PARAMETERS, output + p0 * PANEL, residual + p0 * PANEL, m0};
  unfinished* before = &last;
#else
  int16* kept = 0;
  unfinished* before = 0;
#endif
#if PIXELS_OUTER
  for (int m = m0; m < m1; m += MR) {
    int ready = 0;
    for (int p = p0; p < p1; ++p) {
#else
  for (int p = p0; p < p1; ++p) {
    for (int m = m0; m < m1; m += MR) {
      int ready = 0;
#endif
      // the last tile overlaps its neighbour, which costs less than masks: equal bytes are written twice
      const int first = min(m, m1 - MR);
      G const uchar* window = source + p * PANEL / GROUP_OUT * GROUP_IN;
      G const char* panel = weights + p * panel_bytes;
#if CHECKED
      words = (G widened*)(scratch + 2 * LISTS); // of the one tile that there is then
      lists = (G ushort*)scratch + (PIXELS_OUTER ? 0 : (m - m0) / MR * LISTS);
      if (p == p0) JOIN(list_steps_, ID)(window, (G const short16*)(weights - 2 * LIMIT_BYTES), lists, (G int*)words, first);
#elif WORDS || FLUSHED
      if (GROUP_IN || !ready) JOIN(widen_, ID)(window, words, first);
      ready = 1;
#endif
      JOIN(tile_, ID)(window, panel, parameters + (long)p * PARAMETERS, output + p * PANEL, residual + p * PANEL, rule,
                      first, ahead, pace, words, lists, kept, before);
#if AHEAD
      ahead = ahead < stop ? ahead + STEPS * pace : ahead;
#endif
    }
  }
#if DEFERRED
  const float_rule float_sum = read_float_rule(rule);
  for (int at = 0; at < MR * NV; ++at)
    JOIN(end_, ID)(kept[at], last.parameters, last.output, last.residual, rule, float_sum, last.m + at / NV, at % NV);
#endif
}

#undef PANEL
#undef PARAMETERS
#undef WORDS
#undef STEP
#undef STEPS
#undef ENDED
#undef ENDING
#undef ROW_STEPS
#undef LIST
#undef FETCH_STEP
#undef SIDES
#undef SOURCE
#undef PLACE
#undef RES_PLACE
