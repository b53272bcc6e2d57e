// Standard OpenCL C alone: products in float32, at most BLOCK of them before the sum moves to int, so that it is exact.
typedef float16 sums;
typedef float16 step_weights;
typedef float widened;
#define WIDEN convert_float16
#define STEP_BYTES 1
#define FLUSHED 1
#define SATURATES 0

INLINE float16 add_products(float16 sum, float x, float16 weights)
{
  return fma((float16)x, weights, sum);
}

INLINE int16 shift_right(const int16 value, const int16 bits)
{
  return value >> bits;
}

#define NEAREST_FLOAT 0x1.8p23f // after it, a sum's last bits are the nearest integer
INLINE int16 nearest_float(const float16 value)
{
  return as_int16(value + NEAREST_FLOAT) - as_int(NEAREST_FLOAT);
}

#define WIDE 16

#define FETCH_TO_READ(address)
#define FETCH_TO_WRITE(address)
#define FETCH_AHEAD(address)
