// The inner loop of convolutions, on a tile of V::kRows pixels and NR vectors of output channels, and what follows it.
#pragma once

#include "edge_hands/layers.h"
#include "layers_finish.h"

namespace edge_hands {
namespace {

// Adds the products of kInputs inputs of kRows pixels, which begin at from[r] + k kInputs, to NR vectors of channels, whose
// weights lie `block` apart.
template <class V, int NR>
EDGE_HANDS_INLINE void accumulate_step(typename V::I (&sum)[V::kRows][NR],
                                       const typename V::Input* const (&from)[V::kRows], int64_t k,
                                       const typename V::Weight* weight, int64_t block) {
  typename V::W w[NR];
#pragma GCC unroll 4
  for (int j = 0; j < NR; ++j) w[j] = V::load_weights(weight + j * block);
#pragma GCC unroll 16
  for (int r = 0; r < V::kRows; ++r) {
    const auto x = V::broadcast(from[r] + k * V::kInputs);
#pragma GCC unroll 4
    for (int j = 0; j < NR; ++j) sum[r][j] = V::dot(sum[r][j], x, w[j]);
  }
}

// `steps` of these.
template <class V, int NR>
EDGE_HANDS_INLINE void accumulate(typename V::I (&sum)[V::kRows][NR],
                                  const typename V::Input* const (&from)[V::kRows],
                                  const typename V::Weight* weight, int64_t steps, int64_t block) {
  if constexpr (V::kUnrolled) {
#pragma GCC unroll 2
    for (int64_t k = 0; k < steps; ++k, weight += kLayerLanes * V::kInputs)
      accumulate_step<V, NR>(sum, from, k, weight, block);
  } else {
#pragma GCC unroll 1
    for (int64_t k = 0; k < steps; ++k, weight += kLayerLanes * V::kInputs)
      accumulate_step<V, NR>(sum, from, k, weight, block);
  }
}

// Ends `rows` pixels, at `to`, of a tile of sums, channels from n on. `plain` writes q itself.
template <class V, int NR, Combine combine, bool plain, int R>
EDGE_HANDS_INLINE void finish_tile(const Convolution& c, const typename V::I (&sum)[R][NR], const Pixel (&to)[R],
                                   int rows, int64_t n) {
  if constexpr (plain && NR == 2) {
    if (c.channels - n >= 2 * kLayerLanes) {
      const auto scale0 = V::load(c.scale + n), scale1 = V::load(c.scale + n + kLayerLanes);
      const auto scaled = [&](int r, int j) { return V::multiply(V::to_float(sum[r][j]), j ? scale1 : scale0); };
#pragma GCC unroll 4
      for (int r = 0; r < R; r += 2)  // the last pixel may be written twice
        V::store_rounded(at(c.finish.target.bytes, to[r]) + n, at(c.finish.target.bytes, to[r + 1]) + n, scaled(r, 0),
                         scaled(r, 1), scaled(r + 1, 0), scaled(r + 1, 1), c.zero, c.low);
      return;
    }
  }
  if constexpr (plain && NR == 1) {
    if (c.channels - n >= kLayerLanes) {
      const auto scale = V::load(c.scale + n);
      const Bytes& out = c.finish.target.bytes;
#pragma GCC unroll 4
      for (int r = 0; r < R; r += V::kStored) {
        uint8_t* places[V::kStored];
        typename V::F values[V::kStored];
#pragma GCC unroll 4
        for (int i = 0; i < V::kStored; ++i)
          places[i] = at(out, to[r + i]) + n, values[i] = V::multiply(V::to_float(sum[r + i][0]), scale);
        V::store_rounded(places, values, c.zero, c.low);
      }
      return;
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    if (r >= rows) return;
    const Places places(c.finish, to[r].y * c.width + to[r].x, to[r], c.channels);
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

// As `finish_tile`, of sums of V::Narrow.
template <class V, Combine combine, bool plain, int R>
EDGE_HANDS_INLINE void finish_narrow(const Convolution& c, const typename V::Narrow::I (&sum)[R][1],
                                     const Pixel (&to)[R], int rows, int64_t n) {
  if (plain && c.channels - n == V::kNarrow) {
    const Bytes& out = c.finish.target.bytes;
#pragma GCC unroll 4
    for (int r = 0; r < R; r += 4) {
      uint8_t* const places[4] = {at(out, to[r]) + n, at(out, to[r + 1]) + n, at(out, to[r + 2]) + n, at(out, to[r + 3]) + n};
      const typename V::Narrow::I sums[4] = {sum[r][0], sum[r + 1][0], sum[r + 2][0], sum[r + 3][0]};
      V::store_rounded(places, sums, c.scale + n, c.zero, c.low);
    }
    return;
  }
  typename V::I wide[R][1];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) wide[r][0] = V::widened(sum[r][0]);
  finish_tile<V, 1, combine, plain>(c, wide, to, rows, n);
}

// Fetches, with each of a layer's `parts`, a share of what later layers read.
template <class V>
class Fetching {
 public:
  Fetching(const Ahead& ahead, int64_t parts)
      : next_(ahead.data), end_(ahead.data + ahead.bytes), share_(whole(int64_t(ahead.bytes), parts * 64)) {}

  void some() {
    for (int64_t i = 0; i < share_ && next_ < end_; ++i, next_ += 64) V::fetch(next_);
  }

 private:
  const char *next_, *end_;
  int64_t share_;  // lines
};

}  // namespace
}  // namespace edge_hands
