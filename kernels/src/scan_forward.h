// The forward kernel of a row. Tokens outside, channels inside, and for each token some short passes:
//
//   taps       from offsets and weights of all points, for kTapTokens tokens at once: nobody waits for their stores
//   exp        per channel: exp(-|delta|), the first half of a softplus
//   inputs     per channel: dt, dt s (s gathered through the taps, or x) and D x
//   states     per channel and n: the decay, the new state, its share of y
//
// The longer a chain of operations, the fewer of them a core's scheduler holds at once: hence several passes, each with
// many independent vectors in flight. They hand on rows of one token in the first-level cache, as are the packed tables of
// A and the states. int8 is converted in registers, but for the image of a deformable scan, whose
// pixels are read some 36 times each: that is converted first.
#pragma once

#include <cmath>

#include "deform.h"
#include "int8.h"
#include "tiles.h"
#include "vector_math.h"

namespace edge_hands {
namespace {

// How a state's decay exp(dt A) is had: by one exp2 each, by a coarser one, or, where A is -(n + 1) a, as the powers of
// the first.
enum class Decay { kExact, kCoarse, kGeometric };

constexpr int64_t kTapTokens = 8;

// One image, channels [begin, end). Pointers to rows point at channel 0 whatever begin is. Tables are (N, U, lanes) a tile.
struct ForwardImage {
  int64_t begin, end;
  const float *x, *delta, *B, *C, *offset, *weight;
  const int8_t* x_int8;
  float* y;
  int8_t* y_int8;
  // Workspace.
  float *A, *h, *anchors;
  Taps taps;
  float *dt, *input, *sum;  // rows of one token: exp(-|delta|), then dt (or exp(dt A_0) when geometric); dt s; D x
  float* pixels;            // what x_int8 stands for, (L, end - begin), when deformed
};

template <class S>
int64_t pixel_floats(const Scan& scan, int64_t channels) {
  return scan.x_int8 && scan.points ? scan.length * channels : 0;
}

template <class S>
size_t forward_floats(const Scan& scan, int64_t begin, int64_t end) {
  const int64_t width = packed_width<S>(end - begin);
  return size_t(2 * width * scan.states + 3 * width + pixel_floats<S>(scan, end - begin) +
                (2 + 8 * kTapTokens) * scan.groups * scan.points);
}

// The taps of token t, while its block of kTapTokens lasts.
inline Taps taps_of(const Scan& scan, const ForwardImage& m, int64_t t) {
  const int64_t first = t % kTapTokens * 4 * scan.groups * scan.points;
  return {m.taps.index + first, m.taps.factor + first};
}

// x of token t, vector u of a tile.
template <class S, class T>
typename S::F load_x(const Scan& scan, const ForwardImage& m, int64_t t, const T& tile, int u) {
  const int64_t row = t * scan.channels;
  if (!m.x_int8) return tile.load(m.x + row, u);
  return dequantize<S>(m.x_int8 + row + tile.channel + u * S::lanes, scan.x_quantization, tile.present(u));
}

template <class S>
void dequantize_image(const Scan& scan, const ForwardImage& m) {
  for (int64_t t = 0; t < scan.length; ++t)
    for_tiles<S>(m.begin, m.end, [&](auto tile) {
      for (int u = 0; u < tile.vectors; ++u)
        tile.store(m.pixels + t * (m.end - m.begin) - m.begin, u, load_x<S>(scan, m, t, tile, u));
    });
}

// The inputs pass over the channels of one tile, which all belong to `group`. Pointers are copied first: a vector's store
// may, for all the compiler knows, change what the structs hold.
template <class S, bool geometric, class T>
EDGE_HANDS_INLINE void input_step(const Scan& scan, const ForwardImage& m, int64_t t, int64_t group, const T& tile,
                                  const float* image, int64_t pitch, const float* A) {
  using F = typename S::F;
  const float *delta = m.delta + t * scan.channels, *D = scan.D;
  float *dt_row = m.dt, *input_row = m.input, *sum_row = m.sum;
  const T own = tile;
  F s[T::vectors], x[T::vectors];
  if (scan.points) {
    const int64_t first = group * scan.points, stride = scan.groups * scan.points;
    const Taps taps = taps_of(scan, m, t);
    const auto load = [&](const float* at, int u) {
      return T::vectors == 1 ? S::load(at, own.count) : S::load(at + u * S::lanes);
    };
    gather<S, T::vectors>({taps.index + first, taps.factor + first}, scan.points, stride, image + own.channel, load, s);
    for (int u = 0; u < T::vectors; ++u) x[u] = own.load(image + t * pitch, u);
  } else {
    for (int u = 0; u < T::vectors; ++u) s[u] = x[u] = load_x<S>(scan, m, t, own, u);
  }
  for (int u = 0; u < T::vectors; ++u) {
    const F dt = softplus<S>(own.load(delta, u), own.load(dt_row, u)), step = S::min(S::set(kMaxStep), dt);
    own.store(input_row, u, S::mul(dt, s[u]));
    own.store(sum_row, u, S::mul(own.load(D, u), x[u]));
    own.store(dt_row, u, geometric ? exp2_product<S>(step, own.load(A, u)) : step);
  }
}

// The states pass over one tile: A and h are its tables.
template <class S, Decay kind, class T>
void state_step(const Scan& scan, const ScanOutput& output, const ForwardImage& m, int64_t t, const T& tile,
                const float* A, float* h) {
  using F = typename S::F;
  const int64_t states = scan.states;
  const float *B = m.B + t * states, *C = m.C + t * states;
  F dt[T::vectors], input[T::vectors], sum[T::vectors], power[T::vectors];
  for (int u = 0; u < T::vectors; ++u) {
    dt[u] = power[u] = tile.load(m.dt, u);
    input[u] = tile.load(m.input, u);
    sum[u] = tile.load(m.sum, u);
  }
  for (int64_t n = 0; n < states; ++n, A += T::width, h += T::width) {
    const F b = S::set(B[n]), c = S::set(C[n]);
    for (int u = 0; u < T::vectors; ++u) {
      F decay;
      if constexpr (kind == Decay::kGeometric) {
        decay = power[u];
        power[u] = S::mul(power[u], dt[u]);
      } else {
        constexpr auto precision = kind == Decay::kCoarse ? Precision::kCoarse : Precision::kFull;
        decay = exp2_product<S, precision>(dt[u], S::load(A + u * S::lanes));
      }
      const F state = S::fma(decay, S::load(h + u * S::lanes), S::mul(input[u], b));
      S::store(h + u * S::lanes, state);
      sum[u] = S::fma(c, state, sum[u]);
    }
  }
  for (int u = 0; u < T::vectors; ++u) {
    const int64_t row = t * scan.channels;
    if (m.y_int8)
      quantize<S>(m.y_int8 + row + tile.channel + u * S::lanes, sum[u], output.y_quantization, tile.present(u));
    else
      tile.store(m.y + row, u, sum[u]);
  }
}

template <class S, Decay kind>
void forward_tokens(const Scan& scan, const ScanOutput& output, const ForwardImage& m) {
  const int64_t points = scan.groups * scan.points, per_group = scan.channels / scan.groups;
  if (m.x_int8 && points) dequantize_image<S>(scan, m);
  const float* image = m.x_int8 ? m.pixels - m.begin : m.x;
  const int64_t pitch = m.x_int8 ? m.end - m.begin : scan.channels;

  for (int64_t t = 0; t < scan.length; ++t) {
    if (points && t % kTapTokens == 0)
      for (int64_t i = t; i < t + kTapTokens && i < scan.length; ++i)
        make_taps<S>(scan, i, {points, m.anchors, m.offset + i * 2 * points, m.weight + i * points}, pitch,
                     taps_of(scan, m, i));
    for_tiles<S>(m.begin, m.end, [&](auto tile) {
      for (int u = 0; u < tile.vectors; ++u)
        tile.store(m.dt, u, exp_negative<S>(tile.load(m.delta + t * scan.channels, u)));
    });
    for (int64_t first = m.begin; first < m.end;) {
      const int64_t group = first / per_group, stop = (group + 1) * per_group;
      const int64_t last = !points || stop > m.end ? m.end : stop;  // without points there is no need of groups
      for_tiles<S, S::registers / 8>(first, last, [&](auto tile) {
        input_step<S, kind == Decay::kGeometric>(scan, m, t, group, tile, image, pitch, m.A);
      });
      first = last;
    }
    const float* A = m.A;
    float* h = m.h;
    for_tiles<S>(m.begin, m.end, [&](auto tile) {
      state_step<S, kind>(scan, output, m, t, tile, A, h);
      A += tile.width * scan.states, h += tile.width * scan.states;
    });
  }
}

// Whether every A[d][n] of the channels is n + 1 times A[d][0], within 1e-6 of it.
inline bool is_geometric(const Scan& scan, int64_t begin, int64_t end) {
  if (scan.states < 2) return false;
  for (int64_t d = begin; d < end; ++d) {
    const float* A = scan.A + d * scan.states;
    for (int64_t n = 1; n < scan.states; ++n) {
      const float expected = A[0] * float(n + 1);
      if (!(std::fabs(A[n] - expected) < 1e-6f * std::fabs(expected))) return false;  // < : not where both are infinite
    }
  }
  return true;
}

template <class S>
void forward(const Scan& scan, const ScanOutput& output, int64_t image, int64_t begin, int64_t end, float* work) {
  const int64_t states = scan.states, points = scan.groups * scan.points, width = packed_width<S>(end - begin);
  const int64_t rows = image * scan.length * scan.channels, state_rows = image * scan.length * states;
  const auto take = [&work](int64_t floats) { return work += floats, work - floats; };
  const auto at = [](auto* p, int64_t i) { return p ? p + i : p; };

  ForwardImage m{};
  m.begin = begin, m.end = end;
  m.x = at(scan.x, rows), m.x_int8 = at(scan.x_int8, rows), m.delta = scan.delta + rows;
  m.B = scan.B + state_rows, m.C = scan.C + state_rows;
  m.y = at(output.y, rows), m.y_int8 = at(output.y_int8, rows);
  m.offset = at(scan.offset, image * scan.length * 2 * points), m.weight = at(scan.weight, image * scan.length * points);
  m.A = take(width * states), m.h = take(width * states);
  m.dt = take(width) - begin, m.input = take(width) - begin, m.sum = take(width) - begin;
  m.pixels = take(pixel_floats<S>(scan, end - begin));
  m.anchors = take(2 * points);
  m.taps.index = reinterpret_cast<int32_t*>(take(kTapTokens * 4 * points)), m.taps.factor = take(kTapTokens * 4 * points);
  if (points) make_anchors(scan, m.anchors);

  const bool geometric = is_geometric(scan, begin, end);
  const float* state = at(scan.state, image * scan.channels * states);
  float *A = m.A, *h = m.h;
  for_tiles<S>(begin, end, [&](auto tile) {
    pack(tile, states, state, packed_state, h);
    if (!geometric) pack(tile, states, scan.A, packed_rate, A);
    A += tile.width * states, h += tile.width * states;
  });
  if (geometric) {
    // One number a channel: a plain row.
    for (int64_t d = begin; d < end; ++d) m.A[d - begin] = packed_rate(scan.A[d * states]);
    m.A -= begin;
    forward_tokens<S, Decay::kGeometric>(scan, output, m);
  } else if (output.y_int8 && !output.state) {
    forward_tokens<S, Decay::kCoarse>(scan, output, m);
  } else {
    forward_tokens<S, Decay::kExact>(scan, output, m);
  }

  if (!output.state) return;
  h = m.h;
  for_tiles<S>(begin, end, [&](auto tile) {
    unpack(tile, states, h, output.state + image * scan.channels * states);
    h += tile.width * states;
  });
}

}  // namespace
}  // namespace edge_hands
