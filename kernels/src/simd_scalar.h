// One float as a vector: the portable row, and the list of what a row's vector type must offer.
//
// max(lo, v) and min(hi, v) return v, the second, when either is NaN. fma need not be fused. The partial forms touch
// only the first n <= lanes floats; missing lanes read as 0.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace edge_hands {
namespace {

struct Scalar {
  using F = float;
  static constexpr int lanes = 1;
  static constexpr int tile = 1;  // vectors worked on together

  static F set(float v) { return v; }
  static F load(const float* p) { return *p; }
  static F load(const float* p, int) { return *p; }
  static void store(float* p, F v) { *p = v; }
  static void store(float* p, F v, int) { *p = v; }
  static F add(F a, F b) { return a + b; }
  static F sub(F a, F b) { return a - b; }
  static F mul(F a, F b) { return a * b; }
  static F div(F a, F b) { return a / b; }
  static F fma(F a, F b, F c) { return a * b + c; }
  static F max(F lo, F v) { return lo > v ? lo : v; }
  static F min(F hi, F v) { return hi < v ? hi : v; }
  static F abs(F v) { return v < 0 ? -v : v; }
  static F floor(F v) { return std::floor(v); }
  static F if_negative(F v, F yes, F no) { return v < 0 ? yes : no; }
  // 2^k where v = k + 1.5 * 2^23 + 127, k in [-127, 128]; k = -127 gives 0 and k = 128 infinity.
  static F exponent(F v) {
    uint32_t bits;
    std::memcpy(&bits, &v, 4);
    bits <<= 23;
    std::memcpy(&v, &bits, 4);
    return v;
  }
  // n pairs (even, odd) apart; whole numbers to int32; the lanes' sums of four vectors.
  static void load_pairs(const float* p, int, F* even, F* odd) { *even = p[0], *odd = p[1]; }
  static void store_int(int32_t* p, F v, int) { *p = int32_t(v); }
  static void sum4(F a, F b, F c, F d, float* out) { out[0] = a, out[1] = b, out[2] = c, out[3] = d; }
};

}  // namespace
}  // namespace edge_hands
