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
  static constexpr int tile = 1;
  static constexpr int registers = 8;  // vectors worked on together

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
  static F fms(F a, F b, F c) { return a * b - c; }
  static F max(F lo, F v) { return lo > v ? lo : v; }
  static F min(F hi, F v) { return hi < v ? hi : v; }
  static F abs(F v) { return v < 0 ? -v : v; }
  static F floor(F v) { return std::floor(v); }
  static F if_negative(F v, F yes, F no) { return v < 0 ? yes : no; }
  static F if_equal(F a, F b, F v) { return a == b ? v : 0.0f; }
  // p 2^k, `biased` being k + 1.5 * 2^23 + 127: 0 for k <= -127, infinity for k >= 128.
  static F scale(F p, F, F biased) {
    biased = min(12582912.0f + 255.0f, max(12582912.0f, biased));
    uint32_t bits;
    std::memcpy(&bits, &biased, 4);
    bits <<= 23;
    std::memcpy(&biased, &bits, 4);
    return p * biased;
  }
  // n pairs (even, odd) apart; whole numbers as int32; the lanes' sums of four vectors.
  static void load_pairs(const float* p, int, F* even, F* odd) { *even = p[0], *odd = p[1]; }
  static void store_index(int32_t* p, F v, int) { *p = int32_t(v); }
  // int8 as float; v, which lies within -128 to 127, as the nearest int8, halves to even.
  static F load_int8(const int8_t* p, int) { return float(*p); }
  static void store_int8(int8_t* p, F v, int) { *p = int8_t(std::nearbyint(v)); }
  static void sum4(F a, F b, F c, F d, float* out) { out[0] = a, out[1] = b, out[2] = c, out[3] = d; }
};

}  // namespace
}  // namespace edge_hands
