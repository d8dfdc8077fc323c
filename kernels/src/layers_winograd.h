// 3 x 3 convolutions with fewer products: the minimal filtering F(2 x 2, 3 x 3) of Winograd, as Lavin and Gray apply it
// to networks (arXiv 1509.09308), in exact integers. Four outputs take 16 products of a channel instead of 36.
//
//   y = A' [(G g G') * (B' d B)] A    of a patch d (4, 4) of inputs and the filter g (3, 3)
//
// G has halves; here it is doubled, so that everything is an integer and the sums are four times what they stand for.
// Products are of words: |B' d B| <= 4 * 255 and |2G g 2G'| <= 9 * 127, or 128.
//
// For V that multiplies words two by two. A stripe of patches is transformed to planes (16, patches, inputs), of which each
// is a matrix product. Weights are packed as (channels / 16, 16, ceil(inputs / 2), 16, 2), missing ones 0.
#pragma once

#include "edge_hands/layers.h"
#include "layers_tile.h"

namespace edge_hands {
namespace {

constexpr int64_t kPlanes = 16;
// Patches that are enough for a stripe, which reads all weights.
constexpr int64_t kStripe = 12;

// With more inputs, four times the sum could be no int32; with fewer than a vector, the transforms are most of the work.
inline bool suits_winograd(const Convolution& c) {
  return c.side == 3 && c.stride == 1 && c.height % 2 == 0 && c.width % 2 == 0 && c.in.channels >= kLayerLanes &&
         c.in.channels <= 1024;
}

// A stripe is `rows` rows of patches; a patch makes 2 x 2 pixels. Channels are padded to whole vectors, patches to tiles.
struct Stripes {
  int64_t across, rows, patches, channels;

  Stripes(const Convolution& c, int64_t tile) {
    across = c.width / 2, rows = whole(kStripe, across);
    if (rows > c.height / 2) rows = c.height / 2;
    patches = whole(across * rows, tile) * tile;
    channels = whole(c.in.channels, kLayerLanes) * kLayerLanes;
  }
  int64_t plane() const { return patches * channels; }
  int64_t planes_bytes() const { return kPlanes * plane() * int64_t(sizeof(int16_t)); }
};

inline size_t winograd_packed_bytes(const Convolution& c) {
  return size_t(whole(c.channels, kLayerLanes) * kPlanes * whole(c.in.channels, 2) * kLayerLanes * 2) * sizeof(int16_t);
}

inline size_t winograd_scratch_bytes(const Convolution& c, int64_t tile) {
  const Stripes s(c, tile);
  return size_t(s.planes_bytes() + kPlanes * s.patches * kLayerLanes * int64_t(sizeof(int32_t)));
}

inline void winograd_pack(const Convolution& c, const int8_t* weight, int16_t* packed) {
  constexpr int G[4][3] = {{2, 0, 0}, {1, 1, 1}, {1, -1, 1}, {0, 0, 2}};
  const int64_t inputs = c.in.channels, steps = whole(inputs, 2);
  for (int64_t n = 0; n < c.channels; ++n)
    for (int64_t k = 0; k < inputs; ++k)
      for (int64_t plane = 0; plane < kPlanes; ++plane) {
        int sum = 0;
        for (int y = 0; y < 3; ++y)
          for (int x = 0; x < 3; ++x)
            sum += G[plane / 4][y] * G[plane % 4][x] * weight[((n * 3 + y) * 3 + x) * inputs + k];
        packed[(((n / kLayerLanes * kPlanes + plane) * steps + k / 2) * kLayerLanes + n % kLayerLanes) * 2 + k % 2] =
            int16_t(sum);
      }
}

// B' d of four values.
template <class Add, class Subtract, class T>
EDGE_HANDS_INLINE void patch_transform(Add add, Subtract subtract, T (&d)[4]) {
  const T first = subtract(d[0], d[2]), second = add(d[1], d[2]), third = subtract(d[2], d[1]);
  d[3] = subtract(d[1], d[3]), d[0] = first, d[1] = second, d[2] = third;
}

// The planes of the stripe whose first row of patches is `row`.
template <class V>
void transform_patches(const Convolution& c, const Stripes& s, int64_t row, int64_t rows, int16_t* planes) {
  const auto add = [](auto a, auto b) { return V::add_words(a, b); };
  const auto subtract = [](auto a, auto b) { return V::subtract_words(a, b); };
  const int64_t pitch = c.in.pitch(), pixel = c.in.channels;
  for (int64_t i = 0; i < rows * s.across; ++i) {
    const uint8_t* from = at(c.in, {2 * (row + i / s.across) - c.padding, 2 * (i % s.across) - c.padding});
    for (int64_t k = 0; k < c.in.channels; k += kLayerLanes) {
      typename V::Words d[4][4];  // by column, then by row
#pragma GCC unroll 4
      for (int x = 0; x < 4; ++x) {
#pragma GCC unroll 4
        for (int y = 0; y < 4; ++y) d[x][y] = V::load_words(from + y * pitch + x * pixel + k);
        patch_transform(add, subtract, d[x]);
      }
#pragma GCC unroll 4
      for (int y = 0; y < 4; ++y) {
        typename V::Words line[4] = {d[0][y], d[1][y], d[2][y], d[3][y]};
        patch_transform(add, subtract, line);
#pragma GCC unroll 4
        for (int x = 0; x < 4; ++x) V::store_words(planes + (4 * y + x) * s.plane() + i * s.channels + k, line[x]);
      }
    }
  }
}

// Sums of the planes' products (16, patches, 16) of the channels whose weights these are.
template <class V>
void multiply_planes(const Stripes& s, int64_t inputs, const int16_t* planes, const int16_t* weight, int32_t* sums) {
  const int64_t steps = whole(inputs, 2);
  for (int64_t plane = 0; plane < kPlanes; ++plane, weight += steps * kLayerLanes * 2)
    for (int64_t i = 0; i < s.patches; i += V::kRows) {
      const int16_t* from[V::kRows];
      typename V::I sum[V::kRows][1];
#pragma GCC unroll 8
      for (int r = 0; r < V::kRows; ++r) {
        from[r] = planes + plane * s.plane() + (i + r) * s.channels;
        sum[r][0] = V::set(int32_t(0));
      }
      accumulate<V, 1>(sum, from, weight, steps, 0);
#pragma GCC unroll 8
      for (int r = 0; r < V::kRows; ++r) V::store(sums + (plane * s.patches + i + r) * kLayerLanes, sum[r][0]);
    }
}

// The four outputs of patch i, A' m A / 4 + bias: left and right above, left and right below.
template <class V>
EDGE_HANDS_INLINE void outputs_of(const int32_t* sums, int64_t patches, int64_t i, typename V::I bias,
                                  typename V::I (&out)[4][1]) {
  typename V::I above[4], below[4];
#pragma GCC unroll 4
  for (int x = 0; x < 4; ++x) {
    const auto m = [&](int y) { return V::load(sums + ((4 * y + x) * patches + i) * kLayerLanes); };
    const auto middle = V::add(m(1), m(2));
    above[x] = V::add(m(0), middle);
    below[x] = V::subtract(V::subtract(m(1), m(2)), m(3));
  }
  const auto two = [&](const typename V::I(&m)[4], typename V::I& left, typename V::I& right) {
    left = V::add(V::shift_right(V::add(V::add(m[0], m[1]), m[2]), 2), bias);
    right = V::add(V::shift_right(V::subtract(V::subtract(m[1], m[2]), m[3]), 2), bias);
  };
  two(above, out[0][0], out[1][0]);
  two(below, out[2][0], out[3][0]);
}

template <class V, Combine combine, bool plain>
void winograd(const Convolution& c) {
  static_assert(V::kInputs == 2, "words are multiplied two by two");
  const Stripes s(c, V::kRows);
  auto* planes = static_cast<int16_t*>(c.scratch);
  auto* sums = reinterpret_cast<int32_t*>(static_cast<char*>(c.scratch) + s.planes_bytes());
  const int64_t block = kPlanes * whole(c.in.channels, 2) * kLayerLanes * 2;
  Fetching<V> fetching(c.ahead, whole(c.height / 2, s.rows) * whole(c.channels, kLayerLanes));
  for (int64_t row = 0; row < c.height / 2; row += s.rows) {
    const int64_t rows = c.height / 2 - row < s.rows ? c.height / 2 - row : s.rows;
    transform_patches<V>(c, s, row, rows, planes);
    for (int64_t n = 0; n < c.channels; n += kLayerLanes) {
      fetching.some();
      multiply_planes<V>(s, c.in.channels, planes, static_cast<const int16_t*>(c.weight) + n / kLayerLanes * block, sums);
      const auto bias = V::load(c.bias + n);
      for (int64_t i = 0; i < rows * s.across; ++i) {
        typename V::I out[4][1];
        outputs_of<V>(sums, s.patches, i, bias, out);
        const int64_t y = 2 * (row + i / s.across), x = 2 * (i % s.across);
        const Pixel to[4] = {{y, x}, {y, x + 1}, {y + 1, x}, {y + 1, x + 1}};
        finish_tile<V, 1, combine, plain>(c, out, to, 4, n);
      }
    }
  }
}

}  // namespace
}  // namespace edge_hands
