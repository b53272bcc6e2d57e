// A 3x3 convolution of stride 1 by Winograd's F(4x4, 3x3), exact in integers: a quarter of the products, in 16 bits.
// (Lavin and Gray, arXiv:1509.09308, with the fractions moved to the end.) Only for instruction sets with add_pairs and the one-launch kernel.
//
// A tile of 6x6 source pixels d gives 4x4 outputs Y = A' [(G' g G'^T) * (B' d B'^T)] A'^T / (D_y D_x), where
//   B' = 4  0 -5  0  1  0    G' = 6  0  0    A' = 1 -4 -4  1  1  0    D = 24
//        0 -4 -4  1  1  0         1  1  1         0 -2  2  1 -1  0        12
//        0  4 -4 -1  1  0         1 -1  1         0 -1 -1  1  1  0         6
//        0 -2 -1  2  1  0         1  2  4         0 -1  1  2 -2  1         6
//        0  2 -1 -2  1  0         1 -2  4
//        0  4  0 -5  0  1         0  0  6
// All sums are taken modulo 2^32. D_y D_x is 9 times a power of two, at most 2^6: multiplying by the inverse of 9 modulo
// 2^32 and shifting right is exact if |Y| < 2^25, which is proven from the weights when a network is planned
// (fpga_ops/vector/winograd.py). B' d B'^T of bytes is within +-20400 and G' g G'^T within +-6272: both fit 16 bits.
//
// Where a map's side is 1 or 2 more than a multiple of 4, the last tiles are of 2 outputs per side, from 4 source pixels and
// the frequencies 0, 1, 2 and 5 alone (the points 0, 1, -1 and infinity of F(2, 3), so the weights are the same):
//   B' = 1  0 -1  0    A' = 1  3  3  0    D = 6
//        0  1  1  0         0  3 -3  1        6
//        0 -1  1  0
//        0 -1  0  1
//
// Defined before each inclusion, besides what conv.cl takes: OH (rows of the output), TILE_COLUMNS (tiles per row of tiles),
// TILE_ROWS (rows of tiles per task); AHEAD is 1 if weights come from far and are fetched a frequency ahead. Weights are
// packed [panel of 64][36][4 / NV][pair of channels][NV vectors][16 channels][2], transformed.
//
// If TRANSFORMS, tasks transform their weights themselves: for the next four frequencies while these are multiplied, which
// leaves units idle. What comes from far is then 10 bytes for each 9 weights, not 72. Packed [panel of 64][2][pair of
// channels][2 vectors][5][16 channels][2][two taps]; NV is 2, and two calls multiply all tiles of a frequency.

#define TILES (TILE_ROWS * TILE_COLUMNS)
#define GROUP (TRANSFORMS ? NV : 4) // vectors of channels whose products are kept until they end
// Lines of the next task's weights for each vector that ends, 32 KB in all. Where there are more vectors this costs more
// than it saves.
#define FETCHED_LINES (AHEAD && NV == 1 ? (128 + TILES - 1) / TILES : 0)
// Between frequencies; what follows each other so would lie in the same set of a cache without the additional line.
#define SPREAD_STEP (TILES * CIN + 32)
#define PRODUCTS_STEP (TILES * GROUP * 16 + 16)
#define WEIGHTS_STEP (CIN * 32 + 32)
#define OUT_AT(y, x) (((long)(y) * OUT_PITCH + (x)) * COUT)
#define RES_AT(y, x) (((long)(y) * RES_PITCH + (x)) * COUT)
#define EDGE_Y (OH % 4 == 1 || OH % 4 == 2)
#define EDGE_X (OW % 4 == 1 || OW % 4 == 2)
// Where tile (y, x) of a task is among those that have a frequency.
#define AMONG(frequency_x, y, x) ((y) * (TILE_COLUMNS - (EDGE_X && WHOLE_ONLY(frequency_x))) + (x))
#ifndef WINOGRAD_TRANSFORMS
#define WINOGRAD_TRANSFORMS

#define WHOLE_ONLY(frequency) ((frequency) == 3 || (frequency) == 4)

INLINE void winograd_source(const short32* d, short32* r, const int edge)
{
  if (edge) {
    r[0] = d[0] - d[2];
    r[1] = d[2] + d[1];
    r[2] = d[2] - d[1];
    r[5] = d[3] - d[1];
    return;
  }
  const short32 b4 = d[1] << (short)2, c4 = d[2] << (short)2;
  const short32 p = d[3] - b4, q = d[4] - c4;
  const short32 u = d[4] - d[2], v = (d[3] - d[1]) << (short)1;
  r[0] = (d[0] << (short)2) - c4 + u;
  r[1] = q + p;
  r[2] = q - p;
  r[3] = u + v;
  r[4] = u - v;
  r[5] = b4 - (d[3] << (short)2) - d[3] + d[5];
}

INLINE void winograd_output(const uint16* m, uint16* r, const int edge)
{
  const uint16 sum12 = m[1] + m[2], difference12 = m[1] - m[2];
  if (edge) {
    r[0] = m[0] + (sum12 << 1) + sum12;
    r[1] = m[5] + (difference12 << 1) + difference12;
    return;
  }
  const uint16 sum34 = m[3] + m[4], difference34 = m[3] - m[4];
  r[0] = m[0] - (sum12 << 2) + sum34;
  r[1] = difference34 - (difference12 << 1);
  r[2] = sum34 - sum12;
  r[3] = (difference34 << 1) - difference12 + m[5];
}

#define INVERSE_OF_9 954437177u
// The power of two in an output's D.
#define TWOS(place, edge) (edge ? 1 : place == 0 ? 3 : place == 1 ? 2 : 1)
#endif

#if TRANSFORMS && !defined(WINOGRAD_WEIGHTS)
#define WINOGRAD_WEIGHTS

// Frequencies along a side go by two: 0 and 5, 1 and 2, 3 and 4.
#define OF_TWO(two, member) ((two) == 0 ? 5 * (member) : 2 * (two) - 1 + (member))

// G' g G'^T for four frequencies, two vertical by two horizontal, of one vector of weights. Of the nine taps (row, column)
// 00 and 20, 02 and 22, 01 and 21, 10 and 12 lie beside each other, then 11 beside nothing: one instruction widens,
// multiplies and adds two. Rows 1 to 4 of G' are an even part, of taps 0 and 2, with an odd one, of tap 1, added or
// subtracted.
INLINE void winograd_weights(G const char64* taps, G short* frequencies, const int step, const int rows,
                             const int columns)
{
  const int y = rows == 2 ? 4 : 1, x = columns == 2 ? 4 : 1; // of tap 2 in the even part
  const int odd_y = rows == 2 ? 2 : 1, odd_x = columns == 2 ? 2 : 1;
  short32 r[2][2];
  if (rows == 0 && columns == 0) {
    #pragma unroll
    for (int u = 0; u < 2; ++u) {
      r[0][u] = weigh_bytes(36, 0, taps[u]);
      r[1][u] = weigh_bytes(0, 36, taps[u]);
    }
  } else if (rows == 0) {
    #pragma unroll
    for (int v = 0; v < 2; ++v) {
      const int upper = v ? 0 : 6, lower = v ? 6 : 0;
      const short32 even = weigh_bytes(upper, lower, taps[0]) + weigh_bytes(x * upper, x * lower, taps[1]);
      const short32 odd = weigh_bytes(odd_x * upper, odd_x * lower, taps[2]);
      r[v][0] = even + odd;
      r[v][1] = even - odd;
    }
  } else if (columns == 0) {
    #pragma unroll
    for (int u = 0; u < 2; ++u) {
      const short32 even = weigh_bytes(6, 6 * y, taps[u]);
      const short32 odd = weigh_bytes(u ? 0 : 6 * odd_y, u ? 6 * odd_y : 0, taps[3]);
      r[0][u] = even + odd;
      r[1][u] = even - odd;
    }
  } else {
    const short32 both_even = weigh_bytes(1, y, taps[0]) + weigh_bytes(x, x * y, taps[1]);
    const short32 both_odd = weigh_bytes(odd_y * odd_x, 0, taps[4]);
    const short32 of_x = weigh_bytes(odd_x, odd_x * y, taps[2]), of_y = weigh_bytes(odd_y, odd_y * x, taps[3]);
    const short32 same = both_even + both_odd, other = both_even - both_odd, sum = of_x + of_y, difference = of_x - of_y;
    r[0][0] = same + sum;
    r[0][1] = other - difference;
    r[1][0] = other + difference;
    r[1][1] = same - sum;
  }
  #pragma unroll
  for (int v = 0; v < 2; ++v)
    #pragma unroll
    for (int u = 0; u < 2; ++u) *(G short32*)(frequencies + (2 * v + u) * step) = r[v][u];
}
#endif

// Tile (y, x) of a task, at the last row or column of tiles if edge_y or edge_x: B' d B'^T of all its channels.
INLINE void JOIN(winograd_spread_, ID)(G const uchar* corner, G short* spread, const int y, const int x, const int edge_y,
                                       const int edge_x)
{
  for (int c = 0; c < CIN; c += 32) {
#if TRANSFORMS // there is more of it than stays in the second-level cache between layers
    #pragma unroll
    for (int f = 0; f < 36; ++f) FETCH_TO_WRITE(spread + f * SPREAD_STEP + (AMONG(f % 6, y, x) + 1) * CIN + c);
#endif
    short32 columns[6][6];
    #pragma unroll
    for (int u = 0; u < 6; ++u) {
      if (edge_x && u > 3) continue;
      short32 d[6];
      short32 r[6];
      #pragma unroll
      for (int v = 0; v < 6; ++v)
        if (!edge_y || v < 4)
          d[v] = __builtin_convertvector(*(G const uchar32*)(corner + ((long)v * PITCH + u) * CIN + c), short32);
      winograd_source(d, r, edge_y);
      #pragma unroll
      for (int v = 0; v < 6; ++v)
        if (!(edge_y && WHOLE_ONLY(v))) columns[v][u] = r[v];
    }
    #pragma unroll
    for (int v = 0; v < 6; ++v) {
      if (edge_y && WHOLE_ONLY(v)) continue;
      short32 r[6];
      winograd_source(columns[v], r, edge_x);
      #pragma unroll
      for (int u = 0; u < 6; ++u)
        if (!(edge_x && WHOLE_ONLY(u))) *(G short32*)(spread + (v * 6 + u) * SPREAD_STEP + AMONG(u, y, x) * CIN + c) = r[u];
    }
  }
}

// Step k of the products of `count` tiles, a constant, with NV vectors of channels.
INLINE void JOIN(winograd_step_, ID)(int16 sum[MR][NV], G const short* a, G const int16* w, const int k, const int count)
{
  int16 taps[NV];
  #pragma unroll
  for (int j = 0; j < NV; ++j) taps[j] = w[NV * k + j];
  #pragma unroll
  for (int i = 0; i < MR; ++i)
    if (i < count) {
      const int16 pair = *(G const int*)(a + i * CIN + 2 * k);
      #pragma unroll
      for (int j = 0; j < NV; ++j)
        sum[i][j] = add_pairs(sum[i][j], pair, taps[j]);
    }
}

INLINE void JOIN(winograd_begin_, ID)(int16 sum[MR][NV])
{
  #pragma unroll
  for (int i = 0; i < MR; ++i)
    #pragma unroll
    for (int j = 0; j < NV; ++j) sum[i][j] = 0;
}

INLINE void JOIN(winograd_store_, ID)(int16 sum[MR][NV], G int16* place, const int count)
{
  #pragma unroll
  for (int i = 0; i < MR; ++i)
    if (i < count) {
      #pragma unroll
      for (int j = 0; j < NV; ++j) place[GROUP * i + j] = sum[i][j];
    }
}

#if TRANSFORMS
// Products of `count` tiles, a constant, with two vectors of channels; after each four steps a vector of weights to come.
INLINE void JOIN(winograd_products_, ID)(G const short* a, G const int16* w, G int16* place, const int count,
                                         G const char64* taps, G short* frequencies, const int rows, const int columns,
                                         G const char* far)
{
  int16 sum[MR][NV];
  JOIN(winograd_begin_, ID)(sum);
  for (int k = 0; k < CIN / 2; k += 4) {
    #pragma unroll 1 // else the compiler loads the pixels of all steps at once and has no registers left
    for (int step = 0; step < 4; ++step) JOIN(winograd_step_, ID)(sum, a, w, k + step, count);
    winograd_weights(taps + k / 4 * 5, frequencies + k / 4 * 32, WEIGHTS_STEP, rows, columns);
    FETCH_AHEAD(far + 9 * k);
  }
  JOIN(winograd_store_, ID)(sum, place, count);
}

// Products of all tiles with 32 channels; of their first four frequencies the weights are in `ready`, where at the end
// those of `next` are. From `far` on weights of 32 channels are fetched meanwhile, 36 bytes for each vector that is made.
INLINE void JOIN(winograd_frequencies_, ID)(G const short* spread, G int* products, G const char64* taps,
                                            G const char64* next, G short* ready[2], G const char* far)
{
  #pragma unroll
  for (int four = 0; four < 9; ++four) {
    const int rows = four / 3, columns = four % 3, coming = (four + 1) % 9;
    const int count = (TILE_ROWS - (EDGE_Y && rows == 2)) * (TILE_COLUMNS - (EDGE_X && columns == 2));
    const int each = (count + 1) / 2; // where the number is odd, one tile is multiplied twice
    G const char64* from = coming ? taps : next;
    #pragma unroll 1
    for (int call = 0; call < 8; ++call) {
      const int frequency = OF_TWO(rows, call / 4) * 6 + OF_TWO(columns, call / 2 % 2), part = call * (CIN / 8);
      const int tile = call % 2 ? count - each : 0;
      JOIN(winograd_products_, ID)(
          spread + frequency * SPREAD_STEP + tile * CIN, (G const int16*)(ready[0] + call / 2 * WEIGHTS_STEP),
          (G int16*)(products + frequency * PRODUCTS_STEP) + GROUP * tile, each, from + part * 5, ready[1] + part * 32,
          coming / 3, coming % 3, far + (four * CIN + part) * 36);
    }
    G short* read = ready[0];
    ready[0] = ready[1];
    ready[1] = read;
  }
}
#else
// Products of `count` tiles, a constant, with NV vectors of channels.
INLINE void JOIN(winograd_products_, ID)(G const short* a, G const int16* w, G int16* place, G const char* next,
                                         const int count)
{
  int16 sum[MR][NV];
  JOIN(winograd_begin_, ID)(sum);
#if NV > 1
  #pragma unroll 4
#else
  #pragma unroll 2
#endif
  for (int k = 0; k < CIN / 2; ++k) {
    JOIN(winograd_step_, ID)(sum, a, w, k, count);
#if AHEAD
    #pragma unroll
    for (int j = 0; j < NV; ++j) FETCH_AHEAD(next + 64 * (NV * k + j));
#endif
  }
  JOIN(winograd_store_, ID)(sum, place, count);
}
#endif

// Tile (y, x) of a task: A' ... A'^T, division, requantisation, sum, storing from output pixel (top, left) on.
INLINE void JOIN(winograd_end_, ID)(G const int* products, G const double* parameters, G uchar* output,
                                    G const uchar* residual, G const long* rule, const int y, const int x, const int top,
                                    const int left, const int edge_y, const int edge_x, const int first,
                                    G const char* ahead)
{
  #pragma unroll 1
  for (int vector = 0; vector < GROUP; ++vector) {
    const int j = first + vector;
    #pragma unroll
    for (int line = 0; line < FETCHED_LINES; ++line, ahead += 64) FETCH_AHEAD(ahead);
    uint16 columns[4][6];
    #pragma unroll
    for (int u = 0; u < 6; ++u) {
      if (edge_x && WHOLE_ONLY(u)) continue;
      uint16 m[6], r[4];
      #pragma unroll
      for (int v = 0; v < 6; ++v)
        if (!(edge_y && WHOLE_ONLY(v)))
          m[v] = *(G const uint16*)(products + (v * 6 + u) * PRODUCTS_STEP + (AMONG(u, y, x) * GROUP + vector) * 16);
      winograd_output(m, r, edge_y);
      #pragma unroll
      for (int v = 0; v < 4; ++v)
        if (!edge_y || v < 2) columns[v][u] = r[v];
    }
    #pragma unroll
    for (int v = 0; v < 4; ++v) {
      if (edge_y && v > 1) continue;
      uint16 r[4];
      winograd_output(columns[v], r, edge_x);
      #pragma unroll
      for (int u = 0; u < 4; ++u) {
        if (edge_x && u > 1) continue;
#if OH % 2 || OW % 2
        if (top + v >= OH || left + u >= OW) continue;
#endif
        const int16 sum = as_int16(r[u] * INVERSE_OF_9) >> (TWOS(v, edge_y) + TWOS(u, edge_x));
        int16 z = requantise_vector(sum, parameters, j, 64, rule, FIXED, PLAIN);
#if RESIDUAL
        const uchar16 other = vload16(j, residual + RES_AT(top + v, left + u));
        z = FLOAT_SUM ? add_float16(z, other, read_float_rule(rule)) : add16(z, other, rule, PLAIN_SUM);
#endif
        vstore16(convert_uchar16(z), j, output + OUT_AT(top + v, left + u));
      }
    }
  }
}

// `CALL(edge_y, edge_x)` with constants, for tile (y, x) of a task that holds the map's last row of tiles if `last`.
#define AT_EDGES(CALL) \
  const int edge_y = EDGE_Y && last && y == TILE_ROWS - 1, edge_x = EDGE_X && x == TILE_COLUMNS - 1; \
  if (edge_y && edge_x) CALL(EDGE_Y, EDGE_X); else if (edge_y) CALL(EDGE_Y, 0); else if (edge_x) CALL(0, EDGE_X); else CALL(0, 0)

// Rows of tiles from `row` on, panel `panel`; `scratch` belongs to this worker: short[36][SPREAD_STEP], int[36][PRODUCTS_STEP],
// and if TRANSFORMS short[2][4][WEIGHTS_STEP]. `again`: the first is still there, of another panel.
SEPARATE void JOIN(winograd_, ID)(G const uchar* restrict source, G const char* restrict weights,
                                  G const double* restrict parameters, G uchar* restrict output,
                                  G const uchar* restrict residual, G const long* restrict rule, const int row,
                                  const int panel, const int again, G const char* ahead, G uchar* scratch)
{
  G short* spread = (G short*)scratch;
  G int* products = (G int*)(scratch + 36 * SPREAD_STEP * 2);
  parameters += panel * 128;
  output += panel * 64;
  residual += panel * 64;
  const int last = 4 * (row + TILE_ROWS) >= OH;

  for (int y = 0; y < TILE_ROWS && !again; ++y)
    for (int x = 0; x < TILE_COLUMNS; ++x) {
      G const uchar* corner = source + ((long)(row + y) * 4 * PITCH + x * 4) * CIN;
#define SPREAD(edge_y, edge_x) JOIN(winograd_spread_, ID)(corner, spread, y, x, edge_y, edge_x)
      AT_EDGES(SPREAD);
    }

#if TRANSFORMS
  G const char64* taps = (G const char64*)weights + (long)panel * 10 * CIN;
  G short* fours = spread + 36 * SPREAD_STEP + 72 * PRODUCTS_STEP;
  G short* ready[2] = {fours, fours + 4 * WEIGHTS_STEP};
  for (int n = 0; n < CIN; ++n) winograd_weights(taps + n * 5, ready[0] + n * 32, WEIGHTS_STEP, 0, 0);
#else
  G const int16* w = (G const int16*)weights + (long)panel * 36 * CIN * 2;
#endif
  for (int first = 0; first < 4; first += GROUP) {
#if TRANSFORMS
    G const char64* next = taps + 5 * CIN; // after the last there is none: its own are transformed once more
    JOIN(winograd_frequencies_, ID)(spread, products, taps, first ? taps : next, ready, first ? ahead : (G const char*)next);
    taps = next;
#else
    for (int frequency = 0; frequency < 36; ++frequency)
      for (int vector = 0; vector < 4; vector += NV, w += NV * CIN / 2) {
        const int fewer_rows = EDGE_Y && last && WHOLE_ONLY(frequency / 6);
        const int fewer_columns = EDGE_X && WHOLE_ONLY(frequency % 6);
        G const short* a = spread + frequency * SPREAD_STEP;
        G int16* place = (G int16*)(products + frequency * PRODUCTS_STEP) + vector;
        G const char* next = (G const char*)(w + 2 * CIN);
#define PRODUCTS(t, count) JOIN(winograd_products_, ID)(a + (t) * CIN, w, place + 4 * (t), next, count)
#define ALL_PRODUCTS(count) \
  do { \
    const int calls = ((count) + MR - 1) / MR, each = ((count) + calls - 1) / calls; \
    for (int block = 0; block + each <= (count); block += each) PRODUCTS(block, each); \
    if ((count) % each) PRODUCTS((count) / each * each, (count) % each); \
  } while (0)
        if (!fewer_rows && !fewer_columns) ALL_PRODUCTS(TILES);
#if EDGE_Y
        else if (!fewer_columns) ALL_PRODUCTS(TILES - TILE_COLUMNS);
#endif
#if EDGE_X
        else if (!fewer_rows) ALL_PRODUCTS(TILES - TILE_ROWS);
#endif
#if EDGE_X && EDGE_Y
        else ALL_PRODUCTS((TILE_ROWS - 1) * (TILE_COLUMNS - 1));
#endif
      }
#endif
    for (int y = 0; y < TILE_ROWS; ++y)
      for (int x = 0; x < TILE_COLUMNS; ++x) {
#define END(edge_y, edge_x) \
  JOIN(winograd_end_, ID)(products, parameters, output, residual, rule, y, x, (row + y) * 4, x * 4, edge_y, edge_x, first, \
                          ahead)
        AT_EDGES(END);
        ahead += GROUP * 64 * FETCHED_LINES;
      }
  }
}

#undef TILES
#undef GROUP
#undef FETCHED_LINES
#undef SPREAD_STEP
#undef PRODUCTS_STEP
#undef WEIGHTS_STEP
#undef OUT_AT
#undef RES_AT
#undef EDGE_Y
#undef EDGE_X
#undef AMONG
#undef AT_EDGES
#undef SPREAD
#undef PRODUCTS
#undef ALL_PRODUCTS
#undef END
