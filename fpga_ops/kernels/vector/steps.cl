// The steps that are not convolutions. Tensors are uint8 NHWC with `channels` padded to 16 unless said otherwise;
// pitches are bytes per stored row; `y0` to `y1` are the output rows of a task.

#if WIDE == 64
typedef uchar64 wide;
#define WIDE_MAX __builtin_elementwise_max
#elif WIDE == 32
typedef uchar32 wide;
#define WIDE_MAX __builtin_elementwise_max
#else
typedef uchar16 wide;
#define WIDE_MAX max
#endif

// float32 planes [channels][height][width] to uint8: clip(round_half_even(x / scale) + zero_point), exact in float64.
// `rule`: scale, zero point. `largest` keeps the largest magnitude met, as bits: those of NaN and infinities are larger
// than any finite value's.
#define MAGNITUDE 0x7fffffff
#define INFINITE 0x7f800000
// x times the inverse of a scale within these bounds, both float32, is x / scale to 2^-22 of it. So its nearest integer
// is that of x / scale where the two are no further than CLEAR from each other, or it is beyond MOST_STEPS, which
// saturates. What is no number is never clear.
#define LEAST_SCALE 1e-30
#define LARGEST_SCALE 1e30
#define MOST_STEPS 1024
#define CLEAR (0.5f - MOST_STEPS * 0x1p-22f)
INLINE uchar16 quantise16(const float16 value, const double scale, const float inverse, const int zero_point, int16* largest)
{
  *largest = max(*largest, as_int16(value) & MAGNITUDE);
  const float16 quotient = value * inverse, near = rint(quotient);
  if (all(fabs(quotient - near) <= CLEAR)) {
    const float16 steps = clamp(near, (float)-MOST_STEPS, (float)MOST_STEPS);
    return convert_uchar16_sat(convert_int16(steps) + zero_point);
  }
  const double16 steps = clamp(rint(convert_double16(value) / scale), (double)-MOST_STEPS, (double)MOST_STEPS);
  return convert_uchar16_sat(convert_int16(steps) + zero_point);
}

SEPARATE void quantise_input(G const float* restrict planes, G uchar* restrict output, const int channels,
                             const int stored_channels, const int height, const int width, const long pitch,
                             G const long* rule, G int* not_finite, const int y0, const int y1)
{
  const double scale = as_double(rule[0]);
  const int zero_point = (int)rule[1];
  const float inverse = scale >= LEAST_SCALE && scale <= LARGEST_SCALE ? (float)(1 / scale) : NAN; // never clear
  int16 largest = 0;
  const long plane = (long)height * width;
  for (int y = y0; y < y1; ++y) {
    G const float* in = planes + (long)y * width;
    G uchar* out = output + y * pitch;
    int x = 0;
#if X86
    if (channels == 3 && stored_channels == 3)
      for (; x + 16 <= width; x += 16) {
        const uchar16 a = quantise16(vload16(0, in + x), scale, inverse, zero_point, &largest);
        const uchar16 b = quantise16(vload16(0, in + x + plane), scale, inverse, zero_point, &largest);
        const uchar16 c = quantise16(vload16(0, in + x + 2 * plane), scale, inverse, zero_point, &largest);
        const uchar32 ab = __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17,
                                                   18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31);
        const uchar32 cc = __builtin_shufflevector(c, c, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1,
                                                   2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        const uchar16 first = __builtin_shufflevector(ab, cc, 0, 16, 32, 1, 17, 33, 2, 18, 34, 3, 19, 35, 4, 20, 36, 5);
        const uchar16 next = __builtin_shufflevector(ab, cc, 21, 37, 6, 22, 38, 7, 23, 39, 8, 24, 40, 9, 25, 41, 10, 26);
        const uchar16 last =
            __builtin_shufflevector(ab, cc, 42, 11, 27, 43, 12, 28, 44, 13, 29, 45, 14, 30, 46, 15, 31, 47);
        vstore16(first, 0, out + 3 * x);
        vstore16(next, 0, out + 3 * x + 16);
        vstore16(last, 0, out + 3 * x + 32);
      }
#endif
    if (channels == 1 && stored_channels == 1)
      for (; x + 16 <= width; x += 16) vstore16(quantise16(vload16(0, in + x), scale, inverse, zero_point, &largest), 0, out + x);
    for (; x < width; ++x)
      for (int c = 0; c < channels; ++c) {
        const float value = in[x + c * plane];
        const double steps = clamp(rint((double)value / scale), (double)-MOST_STEPS, (double)MOST_STEPS);
        largest.s0 = max(largest.s0, as_int(value) & MAGNITUDE);
        out[(long)x * stored_channels + c] = convert_uchar_sat(convert_int(steps) + zero_point);
      }
  }
  if (not_finite && any(largest >= (int16)INFINITE)) *not_finite = 1;
}

// Window maximum; windows are cut at the map's edge, so padding never wins.
SEPARATE void max_pool(G const uchar* restrict source, G uchar* restrict output, const int channels,
                       const int in_height, const int in_width, const long in_pitch, const int out_width,
                       const long out_pitch, const int kernel_y, const int kernel_x, const int stride_y,
                       const int stride_x, const int pad_top, const int pad_left, const int y0, const int y1)
{
  for (int y = y0; y < y1; ++y) {
    const int top = max(y * stride_y - pad_top, 0), bottom = min(y * stride_y - pad_top + kernel_y, in_height);
    for (int x = 0; x < out_width; ++x) {
      const int left = max(x * stride_x - pad_left, 0), right = min(x * stride_x - pad_left + kernel_x, in_width);
      G uchar* out = output + y * out_pitch + (long)x * channels;
      int c = 0;
      for (; c + WIDE <= channels; c += WIDE) {
        wide best = 0;
        for (int v = top; v < bottom; ++v)
          for (int u = left; u < right; ++u)
            best = WIDE_MAX(best, *(G const wide*)(source + v * in_pitch + (long)u * channels + c));
        *(G wide*)(out + c) = best;
      }
      for (; c < channels; c += 16) {
        uchar16 best = 0;
        for (int v = top; v < bottom; ++v)
          for (int u = left; u < right; ++u)
            best = max(best, vload16(0, source + v * in_pitch + (long)u * channels + c));
        vstore16(best, 0, out + c);
      }
    }
  }
}

// Mean over the map for vectors v0 to v1 of 16 channels; parameters: float64 slopes [channels], intercepts.
SEPARATE void average_pool(G const uchar* restrict source, G const double* restrict parameters, G uchar* restrict output,
                           G const long* restrict rule, const int channels, const int height, const int width,
                           const long pitch, const int v0, const int v1)
{
  for (int v = v0; v < v1; ++v) {
    int16 sum = 0;
    for (int y = 0; y < height; ++y)
      for (int x = 0; x < width; ++x)
        sum += convert_int16(vload16(v, source + y * pitch + (long)x * channels));
    vstore16(convert_uchar16(requantise16(sum, vload16(v, parameters), vload16(v, parameters + channels), rule, 0)), v,
             output);
  }
}

SEPARATE void add_tensors(G const uchar* restrict first, G const uchar* restrict second, G uchar* restrict output,
                          G const long* restrict rule, const int row_bytes, const long first_pitch,
                          const long second_pitch, const long out_pitch, const int y0, const int y1)
{
  for (int y = y0; y < y1; ++y)
    for (int x = 0; x < row_bytes; x += 16)
      vstore16(convert_uchar16(add16(convert_int16(vload16(0, first + y * first_pitch + x)),
                                     vload16(0, second + y * second_pitch + x), rule, 0)), 0,
               output + y * out_pitch + x);
}

// An output tensor to ONNX's layout: [channels][height][width].
SEPARATE void emit(G const uchar* restrict source, G uchar* restrict output, const int channels,
                   const int stored_channels, const int height, const int width, const long pitch, const int y0,
                   const int y1)
{
  for (int c = 0; c < channels; ++c)
    for (int y = y0; y < y1; ++y)
      for (int x = 0; x < width; ++x)
        output[((long)c * height + y) * width + x] = source[y * pitch + (long)x * stored_channels + c];
}
