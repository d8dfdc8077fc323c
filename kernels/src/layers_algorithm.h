// The layers of a row over a vector type V of 16 lanes; layers_scalar.h says what V must offer. Convolutions have a file of
// their own.
#pragma once

#include "edge_hands/layers.h"
#include "layers_convolution.h"
#include "layers_finish.h"
#include "vector_math.h"

namespace edge_hands {
namespace {

#define EDGE_HANDS_INLINE_LAMBDA __attribute__((always_inline))

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

// V::kRows pixels from `first` on, of which `rows` exist, and NR vectors of channels from n on; T is V or V::Narrow.
template <class T, int NR>
void convolve_float_tile(const FloatConvolution& c, int64_t first, int rows, int64_t n) {
  const int64_t run = int64_t(c.side) * c.in_channels, pitch = int64_t(c.in_width) * c.in_channels;
  const float* weight = c.weight + n * c.side * run;
  const float* from[T::kRows];
  int64_t y = first / c.width, x = first % c.width;
  for (int r = 0; r < T::kRows; ++r) {
    from[r] = r < rows ? c.x + y * c.stride * pitch + x * c.stride * c.in_channels : from[r - 1];
    if (++x == c.width) x = 0, ++y;
  }
  typename T::F sum[T::kRows][NR];
#pragma GCC unroll 8
  for (int r = 0; r < T::kRows; ++r)
#pragma GCC unroll 4
    for (int j = 0; j < NR; ++j) sum[r][j] = T::load(c.bias + n + j * kLayerLanes);
  for (int64_t line = 0; line < c.side * pitch; line += pitch)
#pragma GCC unroll 2
    for (int64_t k = line; k < line + run; ++k, weight += kLayerLanes) {
      typename T::F w[NR];
#pragma GCC unroll 4
      for (int j = 0; j < NR; ++j) w[j] = T::load(weight + j * kLayerLanes * c.side * run);
#pragma GCC unroll 8
      for (int r = 0; r < T::kRows; ++r) {
        const auto value = T::set(from[r][k]);
#pragma GCC unroll 4
        for (int j = 0; j < NR; ++j) sum[r][j] = T::fma(value, w[j], sum[r][j]);
      }
    }
#pragma GCC unroll 8
  for (int r = 0; r < T::kRows; ++r) {
    if (r >= rows) return;
#pragma GCC unroll 4
    for (int j = 0; j < NR; ++j) {
      const int64_t channel = n + j * kLayerLanes, left = c.channels - channel;
      if (left > 0)
        T::store(c.y + (first + r) * c.channels + channel, T::max(sum[r][j], T::set(c.low)),
                 left < kLayerLanes ? int(left) : int(kLayerLanes));
    }
  }
}

template <class T, int NR>
void convolve_float_columns(const FloatConvolution& c, int64_t n) {
  const int64_t pixels = int64_t(c.height) * c.width;
  for (int64_t m = 0; m < pixels; m += T::kRows)
    convolve_float_tile<T, NR>(c, m, pixels - m < T::kRows ? int(pixels - m) : T::kRows, n);
}

template <class V>
void convolve_float(const FloatConvolution& c) {
  int64_t n = 0;
  for (; c.channels - n > V::kNarrow; n += V::kVectors * kLayerLanes)
    V::kVectors == 1 || c.channels - n <= kLayerLanes ? convolve_float_columns<V, 1>(c, n)
                                                      : convolve_float_columns<V, V::kVectors>(c, n);
  if constexpr (V::kNarrow > 0)
    if (n < c.channels) convolve_float_columns<typename V::Narrow, 1>(c, n);
}

template <class V, Combine combine>
void combine_as(const Operand& value, int64_t rows, int64_t width, const Finish& f) {
  for (int64_t y = 0; y < rows; ++y) {
    const Places places(f, y, {y, 0}, width);
    const float* values = value.values ? value.values + y * width : nullptr;
    const uint8_t* bytes = value.bytes.data ? at(value.bytes, {y, 0}) : nullptr;
    const auto some = [&](int64_t n, int count) EDGE_HANDS_INLINE_LAMBDA {
      if constexpr (combine == Combine::kMultiplyInt8 || combine == Combine::kAddInt8) {
        const auto q = V::subtract(V::load_bytes(bytes + n, count), V::set(value.zero));
        finish<V, combine>(f, places, q, V::to_float(q), n, count);
      } else {
        const auto real = operand<V>(values, bytes, value.step, value.zero, n, count);
        finish<V, combine>(f, places, V::set(int32_t(0)), real, n, count);
      }
    };
    int64_t n = 0;
    if (combine == Combine::kAffine && values && !places.values)  // to bytes alone: several vectors are rounded at once
      for (; n + V::kStored * kLayerLanes <= width; n += V::kStored * kLayerLanes) {
        uint8_t* to[V::kStored];
        typename V::F scaled[V::kStored];
#pragma GCC unroll 4
        for (int i = 0; i < V::kStored; ++i) {
          to[i] = places.bytes + n + i * kLayerLanes;
          const auto real = V::multiply(V::load(values + n + i * kLayerLanes), V::set(f.factor));
          scaled[i] = V::multiply(V::subtract(real, V::set(f.shift)), V::set(f.target.inverse));
        }
        V::store_rounded(to, scaled, f.target.zero, 0);
      }
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
    case Combine::kAddInt8:
      return combine_as<V, Combine::kAddInt8>(value, rows, width, f);
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

// A template, to be compiled with the flags of each row: without the instruction, fma is a call.
template <class S>
void refined_rms(const Norm& n) {
  const float* x = n.x;
  float* y = n.y;
  for (int64_t t = 0; t < n.rows; ++t, x += n.pitch, y += n.count) {
    float mean = n.epsilon;
    for (int64_t i = 0; i < n.count; ++i) mean = __builtin_fmaf(x[i] * x[i], n.each, mean);
    const float root = __builtin_sqrtf(mean), inverse = 1.0f / ((root + mean / root) * 0.5f);
    for (int64_t i = 0; i < n.count; ++i) y[i] = x[i] * inverse;
  }
}

template <class V, class S>
constexpr LayerKernels make_layers() {
  return {pack<V>,   packed_bytes<V>, scratch_bytes<V>, convolve<V>,   depthwise<V>,
          convolve_float<V>, combine<V>,      soft_argmax<S>,   refined_rms<S>};
}

}  // namespace
}  // namespace edge_hands
