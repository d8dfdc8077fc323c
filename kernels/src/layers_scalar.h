// Sixteen lanes as plain arrays, and the list of what a vector type of the layers must offer. A `count` below 16 keeps
// loads of floats and stores to the first ones; missing lanes read as 0. Bytes lie in maps, with slack behind them: all
// 16 may be read, and missing lanes may be anything.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "edge_hands/layers.h"

namespace edge_hands {
namespace {

struct ScalarLayers {
  static constexpr int kLanes = int(kLayerLanes);
  // A tile's pixels and vectors, inputs that are multiplied and pixels that are stored at once; up to how many channels
  // V::Narrow is used, which holds the sums of no more, and V::widened(...) of them (0: there is none); whether the inner
  // loop is unrolled, and whether 3 x 3 layers may go by layers_winograd.h, which asks for more (layers_avx2.h has both).
  static constexpr int kRows = 8, kVectors = 2, kInputs = 4, kStored = 4;
  static constexpr int kNarrow = 0;
  static constexpr bool kUnrolled = true, kWinograd = false;
  using Input = uint8_t;
  using Weight = int8_t;
  struct I {
    int32_t v[kLanes];
  };
  struct F {
    float v[kLanes];
  };

  using W = const int8_t*;  // weights of kInputs inputs

  template <class T, class Fn>
  static T each(Fn fn) {
    T out;
    for (int i = 0; i < kLanes; ++i) out.v[i] = fn(i);
    return out;
  }

  static I set(int32_t a) { return each<I>([=](int) { return a; }); }
  static F set(float a) { return each<F>([=](int) { return a; }); }
  static I load(const int32_t* p) { return each<I>([=](int i) { return p[i]; }); }
  static F load(const float* p) { return each<F>([=](int i) { return p[i]; }); }
  static F load(const float* p, int count) { return each<F>([=](int i) { return i < count ? p[i] : 0.0f; }); }
  static I load_bytes(const uint8_t* p, int count) { return each<I>([=](int i) { return i < count ? p[i] : 0; }); }
  static void store(float* p, const F& a, int count) { std::memcpy(p, a.v, size_t(count) * sizeof(float)); }
  // Integers of at least 0, saturated.
  static void store_bytes(uint8_t* p, const I& a, int count) {
    for (int i = 0; i < count; ++i) p[i] = uint8_t(a.v[i] < 255 ? a.v[i] : 255);
  }

  static I add(const I& a, const I& b) { return each<I>([&](int i) { return a.v[i] + b.v[i]; }); }
  static F add(const F& a, const F& b) { return each<F>([&](int i) { return a.v[i] + b.v[i]; }); }
  static I subtract(const I& a, const I& b) { return each<I>([&](int i) { return a.v[i] - b.v[i]; }); }
  static F subtract(const F& a, const F& b) { return each<F>([&](int i) { return a.v[i] - b.v[i]; }); }
  static I multiply(const I& a, const I& b) { return each<I>([&](int i) { return a.v[i] * b.v[i]; }); }
  static F multiply(const F& a, const F& b) { return each<F>([&](int i) { return a.v[i] * b.v[i]; }); }
  static F fma(const F& a, const F& b, const F& c) { return each<F>([&](int i) { return a.v[i] * b.v[i] + c.v[i]; }); }
  static I max(const I& a, const I& b) { return each<I>([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; }); }
  static F max(const F& a, const F& b) { return each<F>([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; }); }
  static F min(const F& a, const F& b) { return each<F>([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; }); }
  static I shift_right(const I& a, int bits) { return each<I>([&](int i) { return a.v[i] >> bits; }); }
  static F to_float(const I& a) { return each<F>([&](int i) { return float(a.v[i]); }); }
  // To the nearest, halves to even; what lies below all integers becomes so small that a zero point changes nothing.
  static I round(const F& a) {
    return each<I>([&](int i) { return a.v[i] > -1e9f ? int32_t(std::nearbyint(a.v[i])) : int32_t(-1000000000); });
  }

  // Asks for the cache line of p, without waiting.
  static void fetch(const char*) {}

  // Scaled sums, rounded, plus zero, as bytes of at least `low`: of two pixels with 32 channels, of kStored with 16.
  static void store_rounded(uint8_t* p, uint8_t* q, const F& p0, const F& p1, const F& q0, const F& q1, int32_t zero,
                            int32_t low) {
    uint8_t* const to[kStored] = {p, p + kLanes, q, q + kLanes};
    const F values[kStored] = {p0, p1, q0, q1};
    store_rounded(to, values, zero, low);
  }
  static void store_rounded(uint8_t* const (&to)[kStored], const F (&values)[kStored], int32_t zero, int32_t low) {
    for (int i = kStored - 1; i >= 0; --i)
      store_bytes(to[i], max(add(round(min(values[i], set(32767.0f))), set(zero)), set(low)), kLanes);
  }

  // Inputs of a map, where those of pixel (0, 0) are; `memory` holds inputs_bytes.
  static size_t inputs_bytes(const Bytes&) { return 0; }
  static const Input* inputs(const Bytes& map, void*) { return map.data; }
  // kInputs inputs: of one pixel, the same in all lanes, and the weights of every lane; a b + sum.
  static const uint8_t* broadcast(const uint8_t* p) { return p; }
  static const int8_t* load_weights(const int8_t* p) { return p; }
  static I dot(const I& sum, const uint8_t* x, const int8_t* w) {
    return each<I>([&](int i) {
      const int8_t* of = w + 4 * i;
      return sum.v[i] + x[0] * of[0] + x[1] * of[1] + x[2] * of[2] + x[3] * of[3];
    });
  }
  // a, which holds bytes, times b, which holds int8; plus sum.
  static I multiply_add(const I& sum, const I& a, const I& b) { return add(sum, multiply(a, b)); }
};

}  // namespace
}  // namespace edge_hands
