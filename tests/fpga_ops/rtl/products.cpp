// All operands through the forms of a dot product; compiled with -DPAIR (dot_pair) or without (dot_three), VEC = 8.
#include <cstdint>
#include <deque>

#ifdef PAIR
#include "Vdot_pair.h"
using Top = Vdot_pair;
constexpr int BITS = 24;     // activation, two weights
#else
#include "Vdot_three.h"
using Top = Vdot_three;
constexpr int BITS = 16;     // activation, weight
#endif
constexpr int VEC = 8;

static int sign(uint64_t x, int bits) { return int32_t(uint32_t(x) << (32 - bits)) >> (32 - bits); }

// Every operand at every place: `step` 0, the same at all places (the largest sums); else place v is v * step further.
// Returns how many of the sums are wrong; `checked` is how many were looked at.
extern "C" int64_t products(uint32_t step, int latency, int64_t* checked) {
  Top top;
  std::deque<std::pair<int, int>> expected;
  int64_t wrong = 0;
  *checked = 0;
  const int64_t total = int64_t(1) << BITS;
  for (int64_t n = 0; n < total + latency; ++n) {
    int sum0 = 0, sum1 = 0;
    uint64_t a = 0, w0 = 0, w1 = 0;
    for (int v = 0; v < VEC; ++v) {
      const uint32_t x = uint32_t(n + int64_t(v) * step) & uint32_t(total - 1);
      const uint64_t act = x & 255, first = x >> 8 & 255, second = x >> 16 & 255;
      a |= act << (8 * v);
      w0 |= first << (8 * v);
      w1 |= second << (8 * v);
      sum0 += int(act) * sign(first, 8);
      sum1 += int(act) * sign(second, 8);
    }
    top.act = a;
#ifdef PAIR
    top.weight0 = w0;
    top.weight1 = w1;
#else
    top.weight = w0;
    sum1 = 0;
#endif
    expected.push_back({sum0, sum1});
    top.clk = 0;
    top.eval();
    top.clk = 1;
    top.eval();
    if (int(expected.size()) < latency) continue;
#ifdef PAIR
    const int got0 = sign(top.dot & 0xFFFFFF, 24), got1 = sign(top.dot >> 24 & 0xFFFFFF, 24);
#else
    const int got0 = sign(top.dot, 24), got1 = 0;
#endif
    wrong += got0 != expected.front().first || got1 != expected.front().second;
    expected.pop_front();
    ++*checked;
  }
  return wrong;
}
