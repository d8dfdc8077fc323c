// int8 convolutions over a vector type V of 16 lanes.
//
// One works on tiles of V::kRows pixels and NR vectors of output channels, at most V::kVectors: for V::kInputs inputs at a
// time it broadcasts the pixels' and multiplies them into all sums. For one row of the filter a pixel's inputs lie side by
// side in memory, so a pixel needs one pointer, and no copy of the image is made; but where V multiplies words, bytes are
// made words first. 3 x 3 layers may be computed in another way (layers_winograd.h).
//
// Weights are packed as (channels / 16, side, ceil(side inputs / kInputs), 16, kInputs), missing ones 0.
#pragma once

#include <cstring>
#include <type_traits>

#include "edge_hands/layers.h"
#include "layers_tile.h"
#include "layers_winograd.h"

namespace edge_hands {
namespace {

// The pixels of an output, one after another, and where the inputs of each begin.
template <class V>
class Walk {
 public:
  Walk(const Convolution& c, const typename V::Input* in)
      : width_(c.width), across_(int64_t(c.stride) * c.in.channels), down_(c.stride * c.in.pitch()) {
    line_ = from_ = in - c.padding * (c.in.pitch() + c.in.channels);
  }

  const Pixel& pixel() const { return pixel_; }
  const typename V::Input* from() const { return from_; }
  void go_on() {
    from_ += across_;
    if (++pixel_.x == width_) pixel_ = {pixel_.y + 1, 0}, from_ = line_ += down_;
  }

 private:
  int64_t width_, across_, down_;
  Pixel pixel_{0, 0};
  const typename V::Input *line_, *from_;
};

// One tile: the next `rows` pixels, vectors of channels from n on, summed by T: V or V::Narrow.
template <class V, class T, int NR, Combine combine, bool plain>
EDGE_HANDS_INLINE void convolution_tile(const Convolution& c, Walk<V>& walk, int rows, int64_t n) {
  const int64_t pitch = c.in.pitch(), steps = whole(int64_t(c.side) * c.in.channels, V::kInputs);
  const int64_t line = steps * kLayerLanes * V::kInputs, block = c.side * line;
  const auto* weight = static_cast<const typename V::Weight*>(c.weight) + n / kLayerLanes * block;
  const typename V::Input* from[T::kRows];
  Pixel to[T::kRows];
#pragma GCC unroll 16
  for (int r = 0; r < T::kRows; ++r) {
    to[r] = walk.pixel(), from[r] = walk.from();
    if (r + 1 < rows) walk.go_on();  // the last one again, where there are no more
  }
  walk.go_on();
  typename T::I sum[T::kRows][NR];
#pragma GCC unroll 16
  for (int r = 0; r < T::kRows; ++r)
#pragma GCC unroll 4
    for (int j = 0; j < NR; ++j) sum[r][j] = T::load(c.bias + n + j * kLayerLanes);
  for (int y = 0; y < c.side; ++y, weight += line) {
    accumulate<T, NR>(sum, from, weight, steps, block);
    for (int r = 0; r < T::kRows; ++r) from[r] += pitch;
  }
  if constexpr (std::is_same_v<T, V>)
    finish_tile<V, NR, combine, plain>(c, sum, to, rows, n);
  else
    finish_narrow<V, combine, plain>(c, sum, to, rows, n);
}

template <class V, class T, int NR, Combine combine, bool plain>
void convolution_columns(const Convolution& c, const typename V::Input* in, int64_t n, Fetching<V>& fetching) {
  const int64_t pixels = int64_t(c.height) * c.width;
  Walk<V> walk(c, in);
  for (int64_t m = 0; m < pixels; m += T::kRows) {
    fetching.some();
    convolution_tile<V, T, NR, combine, plain>(c, walk, pixels - m < T::kRows ? int(pixels - m) : T::kRows, n);
  }
}

template <class V, Combine combine, bool plain>
void convolution_as(const Convolution& c) {
  if constexpr (V::kWinograd)
    if (suits_winograd(c)) return winograd<V, combine, plain>(c);
  constexpr int64_t kWidth = V::kVectors * kLayerLanes;
  const typename V::Input* in = V::inputs(c.in, c.scratch);
  Fetching<V> fetching(c.ahead, whole(c.channels, kWidth) * whole(int64_t(c.height) * c.width, V::kRows));
  int64_t n = 0;
  for (; c.channels - n > V::kNarrow; n += kWidth)
    V::kVectors == 1 || c.channels - n <= kLayerLanes
        ? convolution_columns<V, V, 1, combine, plain>(c, in, n, fetching)
        : convolution_columns<V, V, V::kVectors, combine, plain>(c, in, n, fetching);
  if constexpr (V::kNarrow > 0)
    if (n < c.channels) convolution_columns<V, typename V::Narrow, 1, combine, plain>(c, in, n, fetching);
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
    case Combine::kAddInt8:
      return convolution_as<V, Combine::kAddInt8, false>(c);
    case Combine::kAffine:
      return convolution_as<V, Combine::kAffine, false>(c);
  }
}

template <class V>
size_t packed_bytes(const Convolution& c) {
  if (V::kWinograd && suits_winograd(c)) return winograd_packed_bytes(c);
  const int64_t steps = whole(int64_t(c.side) * c.in.channels, V::kInputs);
  return size_t(whole(c.channels, kLayerLanes) * c.side * steps * kLayerLanes * V::kInputs) * sizeof(typename V::Weight);
}

template <class V>
size_t scratch_bytes(const Convolution& c) {
  return V::kWinograd && suits_winograd(c) ? winograd_scratch_bytes(c, V::kRows) : V::inputs_bytes(c.in);
}

template <class V>
void pack(const Convolution& c, const int8_t* weight, const int32_t* bias, void* packed, int32_t* packed_bias) {
  const int64_t run = int64_t(c.side) * c.in.channels, steps = whole(run, V::kInputs);
  for (int64_t n = 0; n < whole(c.channels, kLayerLanes) * kLayerLanes; ++n) {
    int64_t sum = 0;
    if (n < c.channels)
      for (int64_t i = 0; i < c.side * run; ++i) sum += weight[n * c.side * run + i];
    packed_bias[n] = n < c.channels ? int32_t((bias ? bias[n] : 0) - c.in_zero * sum) : 0;
  }
  std::memset(packed, 0, packed_bytes<V>(c));
  if (V::kWinograd && suits_winograd(c)) return winograd_pack(c, weight, static_cast<int16_t*>(packed));
  for (int64_t n = 0; n < c.channels; ++n) {
    auto* block = static_cast<typename V::Weight*>(packed) + n / kLayerLanes * c.side * steps * kLayerLanes * V::kInputs;
    for (int64_t y = 0; y < c.side; ++y)
      for (int64_t k = 0; k < run; ++k)
        block[((y * steps + k / V::kInputs) * kLayerLanes + n % kLayerLanes) * V::kInputs + k % V::kInputs] =
            weight[(n * c.side + y) * run + k];
  }
}

}  // namespace
}  // namespace edge_hands
