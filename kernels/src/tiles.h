// How channels are cut into vectors, for every row.
//
// A tile is U vectors of neighbouring channels: U = S::tile as long as they last, then half of that, then single vectors,
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
  int count;        // channels; < width only for the last single vector

  F load(const float* row, int u) const {
    if constexpr (U == 1) return S::load(row + channel, count);
    return S::load(row + channel + u * S::lanes);
  }
  void store(float* row, int u, F v) const {
    if constexpr (U == 1) return S::store(row + channel, v, count);
    S::store(row + channel + u * S::lanes, v);
  }
  int present(int u) const { return U == 1 ? count : S::lanes; }  // lanes of vector u that are channels
};

// Calls fn(tile) for the tiles of channels [begin, end).
template <class S, int U = S::tile, class Fn>
void for_tiles(int64_t begin, int64_t end, Fn fn) {
  if constexpr (U == 1) {
    for (; begin < end; begin += S::lanes)
      fn(Tile<S, 1>{begin, end - begin < S::lanes ? int(end - begin) : S::lanes});
  } else {
    constexpr int width = U * S::lanes;
    for (; begin + width <= end; begin += width) fn(Tile<S, U>{begin, width});
    for_tiles<S, U / 2>(begin, end, fn);
  }
}

// Floats per state row of a packed table of `channels` channels.
template <class S>
int64_t packed_width(int64_t channels) {
  return (channels + S::lanes - 1) / S::lanes * S::lanes;
}

// What the tables hold: A for exp2, cut off where decays are long 0, and states as they are.
inline float packed_rate(float a) {
  a *= kLog2e;
  return a < -kMaxRate ? -kMaxRate : a > kMaxRate ? kMaxRate : a;
}
inline float packed_state(float h) { return h; }

// Rows (D, N) of one tile's channels, each value through `packed`, into its table (N, U, lanes). Absent channels, and
// all of them when there are no rows, get 0.
template <class T, class Packed>
void pack(const T& tile, int64_t states, const float* rows, Packed packed, float* table) {
  if (!rows || tile.count < tile.width)
    for (int64_t i = 0; i < states * tile.width; ++i) table[i] = 0.0f;
  if (!rows) return;
  rows += tile.channel * states;
  for (int i = 0; i < tile.count; ++i)
    for (int64_t n = 0; n < states; ++n) table[n * tile.width + i] = packed(rows[i * states + n]);
}

// The other way.
template <class T>
void unpack(const T& tile, int64_t states, const float* table, float* rows) {
  rows += tile.channel * states;
  for (int i = 0; i < tile.count; ++i)
    for (int64_t n = 0; n < states; ++n) rows[i * states + n] = table[n * tile.width + i];
}

}  // namespace
}  // namespace edge_hands
