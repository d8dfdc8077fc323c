// What every layer ends with: values combined with another tensor's, kept as float32, as bytes or both.
#pragma once

#include "edge_hands/layers.h"
#include "vector_math.h"

namespace edge_hands {
namespace {

// A pixel's place among those of a map.
struct Pixel {
  int64_t y, x;
};

inline uint8_t* at(const Bytes& map, const Pixel& p) { return map.data + p.y * map.pitch() + p.x * map.channels; }

// Floats and bytes of the pixels of one tile, wherever a Finish reads and writes.
struct Places {
  const float* other = nullptr;
  const uint8_t* other_bytes = nullptr;
  float* values = nullptr;
  uint8_t* bytes = nullptr;

  Places() = default;
  // `channels` values of the pixel that is number `index`.
  Places(const Finish& f, int64_t index, const Pixel& pixel, int64_t channels) {
    if (f.other.values) other = f.other.values + index * channels;
    if (f.other.bytes.data) other_bytes = at(f.other.bytes, pixel);
    if (f.target.values) values = f.target.values + index * channels;
    if (f.target.bytes.data) bytes = at(f.target.bytes, pixel);
  }
};

template <class V>
typename V::F operand(const float* values, const uint8_t* bytes, float step, int32_t zero, int64_t n, int count) {
  if (values) return V::load(values + n, count);
  return V::multiply(V::to_float(V::subtract(V::load_bytes(bytes + n, count), V::set(zero))), V::set(step));
}

template <class V>
EDGE_HANDS_INLINE void store_rounded(uint8_t* bytes, typename V::F scaled, int32_t zero, int32_t low, int count) {
  const auto top = V::set(float(255 - zero));
  V::store_bytes(bytes, V::max(V::add(V::round(V::min(scaled, top)), V::set(zero)), V::set(low)), count);
}

// Finishes channels n, n + 1, ... of a pixel; `count` of them. q is their int8, `value` what they stand for.
template <class V, Combine combine>
EDGE_HANDS_INLINE void finish(const Finish& f, const Places& p, typename V::I q, typename V::F value, int64_t n,
                              int count) {
  if constexpr (combine == Combine::kMultiplyInt8) {  // q comes without its zero point
    const auto other = V::subtract(V::load_bytes(p.other_bytes + n, count), V::set(f.other.zero));
    const auto scaled = V::multiply(V::to_float(V::multiply(q, other)), V::set(f.product));
    store_rounded<V>(p.bytes + n, scaled, f.target.zero, 0, count);
    return;
  }
  if constexpr (combine == Combine::kAddInt8) {  // so does q here
    const auto other = V::subtract(V::load_bytes(p.other_bytes + n, count), V::set(f.other.zero));
    const auto sum = V::add(V::multiply(q, V::set(f.own)), V::multiply(other, V::set(f.others)));
    const auto shifted = V::shift_right(V::add(sum, V::set(int32_t(1) << (f.bits - 1))), f.bits);
    V::store_bytes(p.bytes + n, V::max(V::add(shifted, V::set(f.target.zero)), V::set(int32_t(0))), count);
    return;
  }
  if constexpr (combine == Combine::kAdd)
    value = V::add(value, operand<V>(p.other, p.other_bytes, f.other.step, f.other.zero, n, count));
  if constexpr (combine == Combine::kMultiply)
    value = V::multiply(value, operand<V>(p.other, p.other_bytes, f.other.step, f.other.zero, n, count));
  if constexpr (combine == Combine::kAffine)
    value = V::subtract(V::multiply(value, V::set(f.factor)), V::set(f.shift));
  if (p.values) V::store(p.values + n, value, count);
  if (p.bytes) store_rounded<V>(p.bytes + n, V::multiply(value, V::set(f.target.inverse)), f.target.zero, 0, count);
}

// As `finish`, told at compile time that all lanes count, where they do.
template <class V, Combine combine>
EDGE_HANDS_INLINE void finish_some(const Finish& f, const Places& p, typename V::I q, typename V::F value, int64_t n,
                                   int count) {
  count == kLayerLanes ? finish<V, combine>(f, p, q, value, n, int(kLayerLanes))
                       : finish<V, combine>(f, p, q, value, n, count);
}

}  // namespace
}  // namespace edge_hands
