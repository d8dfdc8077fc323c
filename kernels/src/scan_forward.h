// The forward kernel of a row: tokens outside, tiles of channels inside, nothing written but y.
//
// For each token: the taps of all its points, then for each tile the gather, the state update and y. States and A are
// packed tables that stay in the first-level cache.
#pragma once

#include "deform.h"
#include "tiles.h"
#include "vector_math.h"

namespace edge_hands {
namespace {

template <class S>
size_t forward_floats(const Scan& scan, int64_t begin, int64_t end) {
  const int64_t points = scan.groups * scan.points;
  return size_t(2 * packed_width<S>(scan, begin, end) * scan.states + 10 * points);
}

// One token of one tile. A and h are the tile's tables (N, U, lanes); rows point at channel 0 of the token.
template <class S, class T>
void forward_step(const Scan& scan, const T& tile, const float* x, const float* delta, const float* B, const float* C,
                  const float* image, const Taps& taps, const float* A, float* h, float* y) {
  using F = typename S::F;
  F dt[T::vectors], input[T::vectors], sum[T::vectors];
  if (scan.points) {
    const int64_t first = tile.group * scan.points;
    const auto pixel = [&](int64_t index, int u) { return tile.load(image + index * scan.channels, u); };
    const int64_t stride = scan.groups * scan.points;
    gather<S, T::vectors>({taps.index + first, taps.factor + first}, scan.points, stride, pixel, input);
  }
  for (int u = 0; u < T::vectors; ++u) {
    const F xu = tile.load(x, u);
    dt[u] = softplus<S>(tile.load(delta, u));
    sum[u] = S::mul(tile.load(scan.D, u), xu);
    input[u] = S::mul(dt[u], scan.points ? input[u] : xu);
  }
  for (int64_t n = 0; n < scan.states; ++n, A += T::width, h += T::width) {
    const F b = S::set(B[n]), c = S::set(C[n]);
    for (int u = 0; u < T::vectors; ++u) {
      const F decay = exp2<S>(S::mul(dt[u], S::load(A + u * S::lanes)));
      const F state = S::fma(decay, S::load(h + u * S::lanes), S::mul(input[u], b));
      S::store(h + u * S::lanes, state);
      sum[u] = S::fma(c, state, sum[u]);
    }
  }
  for (int u = 0; u < T::vectors; ++u) tile.store(y, u, sum[u]);
}

template <class S>
void forward(const Scan& scan, int64_t image_index, int64_t begin, int64_t end, float* y, float* work) {
  const int64_t length = scan.length, channels = scan.channels, states = scan.states;
  const int64_t points = scan.groups * scan.points, table = packed_width<S>(scan, begin, end) * states;
  float *A = work, *h = A + table, *anchors = h + table;
  const Taps taps{reinterpret_cast<int32_t*>(anchors + 2 * points), anchors + 6 * points};

  float* next = A;
  for_tiles<S>(scan, begin, end, [&](auto tile) { pack_A<S>(scan, tile, next), next += tile.width * states; });
  for (int64_t i = 0; i < table; ++i) h[i] = 0.0f;
  if (points) make_anchors(scan, anchors);

  const float* image = scan.x + image_index * length * channels;
  for (int64_t t = 0; t < length; ++t) {
    const int64_t token = image_index * length + t;
    if (points)
      make_taps<S>(scan, t, {points, anchors, scan.offset + token * 2 * points, scan.weight + token * points}, taps);
    const float* row_A = A;
    float* row_h = h;
    for_tiles<S>(scan, begin, end, [&](auto tile) {
      forward_step<S>(scan, tile, scan.x + token * channels, scan.delta + token * channels, scan.B + token * states,
                      scan.C + token * states, image, taps, row_A, row_h, y + token * channels);
      row_A += tile.width * states, row_h += tile.width * states;
    });
  }
}

}  // namespace
}  // namespace edge_hands
