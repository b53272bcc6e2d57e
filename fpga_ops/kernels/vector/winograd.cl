// A 3x3 convolution of stride 1 by Winograd's F(4x4, 3x3), exact in integers: a quarter of the products, in 16 bits.
// (Lavin and Gray, arXiv:1509.09308, with the fractions moved to the end.) Only for FAST and the one-launch kernel.
//
// A tile of 6x6 source pixels d gives 4x4 outputs Y = A' [(G' g G'^T) * (B' d B'^T)] A'^T / (D_y D_x), where
//   B' = 4  0 -5  0  1  0    G' = 1  0  0    A' = 6 -4 -4  1  1  0    D = 24
//        0 -4 -4  1  1  0         1  1  1         0 -2  2  1 -1  0        12
//        0  4 -4 -1  1  0         1 -1  1         0 -1 -1  1  1  0         6
//        0 -2 -1  2  1  0         1  2  4         0 -1  1  2 -2  6         6
//        0  2 -1 -2  1  0         1 -2  4
//        0  4  0 -5  0  1         0  0  1
// All sums are taken modulo 2^32. D_y D_x is 9 times a power of two, at most 2^6: multiplying by the inverse of 9 modulo
// 2^32 and shifting right is exact if |Y| < 2^25, which is proven from the weights when a network is planned
// (fpga_ops/vector/winograd.py). B' d B'^T of bytes is within +-20400 and G' g G'^T within +-6272: both fit 16 bits.
//
// Defined before each inclusion, besides what conv.cl takes: TILE_COLUMNS (tiles per row of tiles), TILE_ROWS (rows of
// tiles per task). Weights are packed [panel of 64][36][pair of channels][4 vectors][16 channels][2].

#define TILES (TILE_ROWS * TILE_COLUMNS)
#define OUT_AT(y, x) (((long)(y) * OUT_PITCH + (x)) * COUT)
#define RES_AT(y, x) (((long)(y) * RES_PITCH + (x)) * COUT)
#ifndef WINOGRAD_TRANSFORMS
#define WINOGRAD_TRANSFORMS

INLINE void winograd_source(const short32* d, short32* r)
{
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

INLINE void winograd_output(const uint16* m, uint16* r)
{
  const uint16 sum12 = m[1] + m[2], sum34 = m[3] + m[4], difference12 = m[1] - m[2], difference34 = m[3] - m[4];
  r[0] = (m[0] << 2) + (m[0] << 1) - (sum12 << 2) + sum34;
  r[1] = difference34 - (difference12 << 1);
  r[2] = sum34 - sum12;
  r[3] = (difference34 << 1) - difference12 + (m[5] << 2) + (m[5] << 1);
}

#define INVERSE_OF_9 954437177u
#endif

// Rows of tiles from `row` on, panel `panel`; `scratch` belongs to this worker: short[36][TILES][CIN], int[36][TILES][64].
SEPARATE void JOIN(winograd_, ID)(G const uchar* restrict source, G const char* restrict weights,
                                  G const int* restrict parameters, G uchar* restrict output,
                                  G const uchar* restrict residual, G const long* restrict rule, const int row,
                                  const int panel, G uchar* scratch)
{
  G short* spread = (G short*)scratch;
  G int* products = (G int*)(scratch + 36 * TILES * CIN * 2);
  parameters += panel * 160;
  output += panel * 64;
  residual += panel * 64;

  for (int t = 0; t < TILES; ++t) {
    G const uchar* corner = source + ((long)(row + t / TILE_COLUMNS) * 4 * PITCH + t % TILE_COLUMNS * 4) * CIN;
    for (int c = 0; c < CIN; c += 32) {
      short32 columns[6][6];
      #pragma unroll
      for (int x = 0; x < 6; ++x) {
        short32 d[6], r[6];
        #pragma unroll
        for (int y = 0; y < 6; ++y)
          d[y] = __builtin_convertvector(*(G const uchar32*)(corner + ((long)y * PITCH + x) * CIN + c), short32);
        winograd_source(d, r);
        #pragma unroll
        for (int y = 0; y < 6; ++y) columns[y][x] = r[y];
      }
      #pragma unroll
      for (int y = 0; y < 6; ++y) {
        short32 r[6];
        winograd_source(columns[y], r);
        #pragma unroll
        for (int x = 0; x < 6; ++x) *(G short32*)(spread + ((y * 6 + x) * TILES + t) * CIN + c) = r[x];
      }
    }
  }

  G const int16* w = (G const int16*)weights + (long)panel * 36 * CIN * 2;
  for (int frequency = 0; frequency < 36; ++frequency, w += CIN * 2)
    for (int block = 0; block < TILES; block += MR) {
      const int t = min(block, TILES - MR);
      G const short* a = spread + (frequency * TILES + t) * CIN;
      #pragma unroll 1
      for (int first = 0; first < 4; first += NV) {
        int16 sum[MR][NV];
        #pragma unroll
        for (int i = 0; i < MR; ++i)
          #pragma unroll
          for (int j = 0; j < NV; ++j) sum[i][j] = 0;
        #pragma unroll 2
        for (int k = 0; k < CIN / 2; ++k) {
          int16 taps[NV];
          #pragma unroll
          for (int j = 0; j < NV; ++j) taps[j] = w[4 * k + first + j];
          #pragma unroll
          for (int i = 0; i < MR; ++i) {
            const int16 pair = *(G const int*)(a + i * CIN + 2 * k);
            #pragma unroll
            for (int j = 0; j < NV; ++j)
              sum[i][j] = dot_s16s16(sum[i][j], __builtin_astype(pair, short32), __builtin_astype(taps[j], short32));
          }
        }
        G int16* place = (G int16*)(products + (frequency * TILES + t) * 64) + first;
        #pragma unroll
        for (int i = 0; i < MR; ++i)
          #pragma unroll
          for (int j = 0; j < NV; ++j) place[4 * i + j] = sum[i][j];
      }
    }

  for (int t = 0; t < TILES; ++t) {
    int16 result[4][4][4];
    #pragma unroll 1
    for (int j = 0; j < 4; ++j) {
      const uint16 bias = as_uint16(vload16(j, parameters));
      uint16 columns[4][6];
      #pragma unroll
      for (int x = 0; x < 6; ++x) {
        uint16 m[6], r[4];
        #pragma unroll
        for (int y = 0; y < 6; ++y) m[y] = *(G const uint16*)(products + ((y * 6 + x) * TILES + t) * 64 + 16 * j);
        winograd_output(m, r);
        #pragma unroll
        for (int y = 0; y < 4; ++y) columns[y][x] = r[y];
      }
      #pragma unroll
      for (int y = 0; y < 4; ++y) {
        uint16 r[4];
        winograd_output(columns[y], r);
        #pragma unroll
        for (int x = 0; x < 4; ++x) {
          const int twos = (y == 0 ? 3 : y == 1 ? 2 : 1) + (x == 0 ? 3 : x == 1 ? 2 : 1);
          result[y][x][j] = as_int16(as_uint16(as_int16(r[x] * INVERSE_OF_9) >> twos) + bias);
        }
      }
    }
    const int top = (row + t / TILE_COLUMNS) * 4, left = t % TILE_COLUMNS * 4;
    #pragma unroll
    for (int y = 0; y < 4; ++y)
      #pragma unroll
      for (int x = 0; x < 4; ++x) {
        uchar64 z = requantise64(result[y][x][0], result[y][x][1], result[y][x][2], result[y][x][3], PRE, parameters);
#if BOUNDED
        z = bound64(z, rule + 4);
#endif
#if RESIDUAL
        z = add64(z, *(G const uchar64*)(residual + RES_AT(top + y, left + x)), rule);
#if SUM_BOUNDED
        z = bound64(z, rule + 6);
#endif
#endif
        *(G uchar64*)(output + OUT_AT(top + y, left + x)) = z;
      }
  }
}

#undef TILES
#undef OUT_AT
#undef RES_AT
