// How channels are cut into vectors, for every row.
//
// A tile is U vectors of neighbouring channels of one group: U = S::tile while the group lasts, then single vectors,
// the last of which may be partial. Packed per-channel tables (A, states) follow the same order of tiles, each tile holding
// (n, U, lanes), so a tile's part of a table is found by walking.
#pragma once

#include <cstdint>

#include "edge_hands/scan.h"
#include "vector_math.h"

namespace edge_hands {
namespace {

template <class S, int U>
struct Tile {
  using F = typename S::F;
  static constexpr int vectors = U;
  static constexpr int width = U * S::lanes;
  int64_t channel;  // first one
  int64_t group;
  int count;  // channels; < width only for the last single vector of a group

  F load(const float* row, int u) const {
    if constexpr (U == 1) return S::load(row + channel, count);
    return S::load(row + channel + u * S::lanes);
  }
  void store(float* row, int u, F v) const {
    if constexpr (U == 1) return S::store(row + channel, v, count);
    S::store(row + channel + u * S::lanes, v);
  }
};

// Calls fn(tile) for the tiles of channels [begin, end).
template <class S, class Fn>
void for_tiles(const Scan& scan, int64_t begin, int64_t end, Fn fn) {
  constexpr int wide = S::tile * S::lanes;
  const int64_t per_group = scan.channels / scan.groups;
  for (int64_t c = begin; c < end;) {
    const int64_t group = c / per_group;
    const int64_t stop = (group + 1) * per_group < end ? (group + 1) * per_group : end;
    if constexpr (S::tile > 1)
      for (; c + wide <= stop; c += wide) fn(Tile<S, S::tile>{c, group, wide});
    for (; c < stop; c += S::lanes) fn(Tile<S, 1>{c, group, stop - c < S::lanes ? int(stop - c) : S::lanes});
    c = stop;  // a partial vector has stepped past it
  }
}

// Floats per state row of a packed table over channels [begin, end), an upper bound.
template <class S>
int64_t packed_width(const Scan& scan, int64_t begin, int64_t end) {
  return end - begin + (scan.groups + 1) * S::lanes;
}

// A of one tile, times log2(e) so that the kernels can use exp2; absent channels get 0. table (N, U, lanes).
template <class S, int U>
void pack_A(const Scan& scan, const Tile<S, U>& tile, float* table) {
  for (int64_t n = 0; n < scan.states; ++n)
    for (int i = 0; i < tile.width; ++i)
      table[n * tile.width + i] = i < tile.count ? scan.A[(tile.channel + i) * scan.states + n] * kLog2e : 0.0f;
}

}  // namespace
}  // namespace edge_hands
