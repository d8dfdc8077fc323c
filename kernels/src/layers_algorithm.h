// The layers of a row over a vector type V of 16 lanes; layers_scalar.h and layers_avx512.h say what V must offer.
//
// A convolution works on tiles of kRows pixels and NR vectors of output channels: for four inputs at a time it broadcasts
// the pixels' bytes and multiplies them into all sums. For one row of the filter a pixel's inputs lie side by side
// in memory, so a pixel needs one pointer, and no copy of the image is made.
#pragma once

#include <cstring>

#include "edge_hands/layers.h"
#include "vector_math.h"

namespace edge_hands {
namespace {

#define EDGE_HANDS_INLINE_LAMBDA __attribute__((always_inline))

constexpr int kRows = 8;

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

// One tile of a convolution: `rows` pixels from index m on, vectors of channels from n on. `plain` writes q itself.
template <class V, int NR, Combine combine, bool plain>
void convolution_tile(const Convolution& c, int64_t m, int rows, int64_t n) {
  const int64_t pitch = c.in.pitch(), run = whole(int64_t(c.side) * c.in.channels, kLayerInputs);
  const int64_t block = c.side * run * kLayerLanes * kLayerInputs;
  const int8_t* weight = c.weight + n / kLayerLanes * block;
  const uint8_t* from[kRows];
  Pixel to[kRows];
  Pixel next{int64_t(uint32_t(m) / uint32_t(c.width)), int64_t(uint32_t(m) % uint32_t(c.width))};
  for (int r = 0; r < kRows; ++r) {
    to[r] = r < rows ? next : to[rows - 1];
    from[r] = at(c.in, {to[r].y * c.stride - c.padding, to[r].x * c.stride - c.padding});
    if (++next.x == c.width) next = {next.y + 1, 0};
  }
  typename V::I sum[kRows][NR];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int j = 0; j < NR; ++j) sum[r][j] = V::load(c.bias + n + j * kLayerLanes);
  for (int y = 0; y < c.side; ++y) {
#pragma GCC unroll 2
    for (int64_t k = 0; k < run; ++k, weight += kLayerLanes * kLayerInputs) {
      typename V::W w[NR];
#pragma GCC unroll 4
      for (int j = 0; j < NR; ++j) w[j] = V::load_weights(weight + j * block);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        const auto x = V::broadcast4(from[r] + k * kLayerInputs);
#pragma GCC unroll 4
        for (int j = 0; j < NR; ++j) sum[r][j] = V::dot4(sum[r][j], x, w[j]);
      }
    }
    for (int r = 0; r < kRows; ++r) from[r] += pitch;
  }
  if constexpr (plain && NR == 2) {
    if (c.channels - n >= 2 * kLayerLanes) {
      const auto scale0 = V::load(c.scale + n), scale1 = V::load(c.scale + n + kLayerLanes);
      const auto scaled = [&](int r, int j) { return V::multiply(V::to_float(sum[r][j]), j ? scale1 : scale0); };
#pragma GCC unroll 4
      for (int r = 0; r < kRows; r += 2)  // the last pixel may be written twice
        V::store_rounded(at(c.finish.target.bytes, to[r]) + n, at(c.finish.target.bytes, to[r + 1]) + n, scaled(r, 0),
                         scaled(r, 1), scaled(r + 1, 0), scaled(r + 1, 1), c.zero, c.low);
      return;
    }
  }
  if constexpr (plain && NR == 1) {
    if (c.channels - n >= kLayerLanes) {
      const auto scale = V::load(c.scale + n);
      const Bytes& out = c.finish.target.bytes;
#pragma GCC unroll 2
      for (int r = 0; r < kRows; r += 4)
        V::store_rounded(at(out, to[r]) + n, at(out, to[r + 1]) + n, at(out, to[r + 2]) + n, at(out, to[r + 3]) + n,
                         V::multiply(V::to_float(sum[r][0]), scale), V::multiply(V::to_float(sum[r + 1][0]), scale),
                         V::multiply(V::to_float(sum[r + 2][0]), scale), V::multiply(V::to_float(sum[r + 3][0]), scale),
                         c.zero, c.low);
      return;
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
    if (r >= rows) return;
    const Places places(c.finish, m + r, to[r], c.channels);
#pragma GCC unroll 4
    for (int j = 0; j < NR; ++j) {
      const int64_t first = n + j * kLayerLanes;
      const int count = c.channels - first < kLayerLanes ? int(c.channels - first) : int(kLayerLanes);
      if (count <= 0) continue;
      const auto scaled = V::multiply(V::to_float(sum[r][j]), V::load(c.scale + first));
      if constexpr (plain) {
        store_rounded<V>(places.bytes + first, scaled, c.zero, c.low, count);
      } else {
        const auto top = V::min(scaled, V::set(float(255 - c.zero)));
        const auto q = V::max(V::round(top), V::set(c.low - c.zero));  // less its zero point
        finish_some<V, combine>(c.finish, places, q, V::multiply(V::to_float(q), V::set(c.step)), first, count);
      }
    }
  }
}

// Fetches its tile's share of what later layers read.
template <class V, int NR, Combine combine, bool plain>
void convolution_columns(const Convolution& c, int64_t n) {
  const int64_t pixels = int64_t(c.height) * c.width, tiles = whole(pixels, kRows);
  const int64_t columns = whole(c.channels, 2 * kLayerLanes), column = n / (2 * kLayerLanes);
  const char* next = c.ahead.data + int64_t(c.ahead.bytes) * column / columns / 64 * 64;
  const int64_t share = whole(int64_t(c.ahead.bytes), columns * tiles * 64) * 64;
  const char* end = c.ahead.data + c.ahead.bytes;
  for (int64_t m = 0; m < pixels; m += kRows) {
    for (int64_t i = 0; i < share && next < end; i += 64, next += 64) V::fetch(next);
    convolution_tile<V, NR, combine, plain>(c, m, pixels - m < kRows ? int(pixels - m) : kRows, n);
  }
}

template <class V, Combine combine, bool plain>
void convolution_as(const Convolution& c) {
  int64_t n = 0;
  for (; c.channels - n > kLayerLanes; n += 2 * kLayerLanes) convolution_columns<V, 2, combine, plain>(c, n);
  if (n < c.channels) convolution_columns<V, 1, combine, plain>(c, n);
}

template <class V>
void convolve(const Convolution& c) {
  switch (c.finish.combine) {
    case Combine::kNothing:
      return c.finish.target.values ? convolution_as<V, Combine::kNothing, false>(c)
                                    : convolution_as<V, Combine::kNothing, true>(c);
    case Combine::kAdd:
      return convolution_as<V, Combine::kAdd, false>(c);
    case Combine::kMultiply:
      return convolution_as<V, Combine::kMultiply, false>(c);
    case Combine::kMultiplyInt8:
      return convolution_as<V, Combine::kMultiplyInt8, false>(c);
    case Combine::kAffine:
      return convolution_as<V, Combine::kAffine, false>(c);
  }
}

template <class V, bool whole_vector>
void depthwise_lanes(const Depthwise& d, int64_t n, int some) {
  const int count = whole_vector ? int(kLayerLanes) : some;
  const int64_t pitch = d.in.pitch(), channels = d.in.channels, width = whole(channels, kLayerLanes) * kLayerLanes;
  typename V::I w[9];
#pragma GCC unroll 9
  for (int k = 0; k < 9; ++k) w[k] = V::load(d.weight + k * width + n);
  const auto bias = V::load(d.bias + n);
  const auto scale = V::load(d.scale + n);
  for (int64_t y = 0; y < d.in.height; ++y) {
    const uint8_t* from = at(d.in, {y - 1, -1}) + n;
    uint8_t* to = at(d.out, {y, 0}) + n;
    for (int64_t x = 0; x < d.in.width; ++x, from += channels, to += channels) {
      typename V::I sum[3];
#pragma GCC unroll 3
      for (int row = 0; row < 3; ++row) {  // three sums hide each other's latency
        sum[row] = row ? V::set(int32_t(0)) : bias;
#pragma GCC unroll 3
        for (int k = 0; k < 3; ++k)
          sum[row] = V::multiply_add(sum[row], V::load_bytes(from + row * pitch + k * channels, count), w[3 * row + k]);
      }
      const auto total = V::add(V::add(sum[0], sum[1]), sum[2]);
      store_rounded<V>(to, V::multiply(V::to_float(total), scale), d.zero, d.low, count);
    }
  }
}

template <class V>
void depthwise(const Depthwise& d) {
  int64_t n = 0;
  for (; n + kLayerLanes <= d.in.channels; n += kLayerLanes) depthwise_lanes<V, true>(d, n, 0);
  if (n < d.in.channels) depthwise_lanes<V, false>(d, n, int(d.in.channels - n));
}

template <class V, int NR>
void linear_tile(const Linear& l, int64_t m, int rows, int64_t n) {
  const float* weight = l.weight + n * l.inputs;
  const float* from[kRows];
  for (int r = 0; r < kRows; ++r) from[r] = l.x + (m + (r < rows ? r : rows - 1)) * l.inputs;
  typename V::F sum[kRows][NR];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int j = 0; j < NR; ++j) sum[r][j] = V::load(l.bias + n + j * kLayerLanes);
#pragma GCC unroll 2
  for (int64_t k = 0; k < l.inputs; ++k, weight += kLayerLanes) {
    typename V::F w[NR];
#pragma GCC unroll 4
    for (int j = 0; j < NR; ++j) w[j] = V::load(weight + j * kLayerLanes * l.inputs);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const auto x = V::set(from[r][k]);
#pragma GCC unroll 4
      for (int j = 0; j < NR; ++j) sum[r][j] = V::fma(x, w[j], sum[r][j]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
    if (r >= rows) return;
#pragma GCC unroll 4
    for (int j = 0; j < NR; ++j) {
      const int64_t first = n + j * kLayerLanes, left = l.outputs - first;
      if (left > 0)
        V::store(l.y + (m + r) * l.outputs + first, sum[r][j], left < kLayerLanes ? int(left) : int(kLayerLanes));
    }
  }
}

template <class V>
void linear(const Linear& l) {
  for (int64_t n = 0; n < l.outputs; n += 2 * kLayerLanes)
    for (int64_t m = 0; m < l.rows; m += kRows) {
      const int rows = l.rows - m < kRows ? int(l.rows - m) : kRows;
      l.outputs - n > kLayerLanes ? linear_tile<V, 2>(l, m, rows, n) : linear_tile<V, 1>(l, m, rows, n);
    }
}

template <class V, Combine combine>
void combine_as(const Operand& value, int64_t rows, int64_t width, const Finish& f) {
  for (int64_t y = 0; y < rows; ++y) {
    const Places places(f, y, {y, 0}, width);
    const float* values = value.values ? value.values + y * width : nullptr;
    const uint8_t* bytes = value.bytes.data ? at(value.bytes, {y, 0}) : nullptr;
    const auto some = [&](int64_t n, int count) EDGE_HANDS_INLINE_LAMBDA {
      if constexpr (combine == Combine::kMultiplyInt8) {
        const auto q = V::subtract(V::load_bytes(bytes + n, count), V::set(value.zero));
        finish<V, combine>(f, places, q, V::to_float(q), n, count);
      } else {
        const auto real = operand<V>(values, bytes, value.step, value.zero, n, count);
        finish<V, combine>(f, places, V::set(int32_t(0)), real, n, count);
      }
    };
    int64_t n = 0;
    for (; n + kLayerLanes <= width; n += kLayerLanes) some(n, int(kLayerLanes));
    if (n < width) some(n, int(width - n));
  }
}

template <class V>
void combine(const Operand& value, int64_t rows, int64_t width, const Finish& f) {
  switch (f.combine) {
    case Combine::kNothing:
      return combine_as<V, Combine::kNothing>(value, rows, width, f);
    case Combine::kAdd:
      return combine_as<V, Combine::kAdd>(value, rows, width, f);
    case Combine::kMultiply:
      return combine_as<V, Combine::kMultiply>(value, rows, width, f);
    case Combine::kMultiplyInt8:
      return combine_as<V, Combine::kMultiplyInt8>(value, rows, width, f);
    case Combine::kAffine:
      return combine_as<V, Combine::kAffine>(value, rows, width, f);
  }
}

// Channels are the lanes, S the vector type of the row's scans. Sums are taken over kPart pixels first: as many roundings,
// smaller ones.
template <class S>
void soft_argmax(const SoftArgmax& s) {
  using F = typename S::F;
  constexpr int64_t kPart = 32;
  constexpr int kSums = 3 + kWeightedMaps;  // the weights, by x, by y, by each of the maps
  for (int64_t first = 0; first < s.joints; first += S::lanes) {
    const int count = s.joints - first < S::lanes ? int(s.joints - first) : S::lanes;
    const float* heat = s.maps + s.heat + first;
    F top = S::load(heat, count);
    for (int64_t p = 1; p < s.pixels; ++p) top = S::max(top, S::load(heat + p * s.channels, count));
    F total[kSums];
    for (F& sum : total) sum = S::set(0.0f);
    for (int64_t from = 0; from < s.pixels; from += kPart) {
      F part[kSums];
      for (F& sum : part) sum = S::set(0.0f);
      for (int64_t p = from; p < from + kPart && p < s.pixels; ++p) {
        const float* pixel = s.maps + p * s.channels + first;
        const F weight = exp2_product<S>(S::sub(S::load(pixel + s.heat, count), top), S::set(1.4426950408889634f));
        part[0] = S::add(part[0], weight);
        part[1] = S::fma(weight, S::set(s.grid[p]), part[1]);
        part[2] = S::fma(weight, S::set(s.grid[s.pixels + p]), part[2]);
        for (int i = 0; i < s.weighted; ++i)
          part[3 + i] = S::fma(weight, S::load(pixel + s.first[i], count), part[3 + i]);
      }
      for (int i = 0; i < kSums; ++i) total[i] = S::add(total[i], part[i]);
    }
    float x[S::lanes], y[S::lanes];
    S::store(x, S::div(total[1], total[0])), S::store(y, S::div(total[2], total[0]));
    for (int i = 0; i < count; ++i) s.positions[2 * (first + i)] = x[i], s.positions[2 * (first + i) + 1] = y[i];
    for (int i = 0; i < s.weighted; ++i) S::store(s.sums[i] + first, S::div(total[3 + i], total[0]), count);
  }
}

template <class V, class S>
constexpr LayerKernels make_layers() {
  return {convolve<V>, depthwise<V>, linear<V>, combine<V>, soft_argmax<S>};
}

}  // namespace
}  // namespace edge_hands
