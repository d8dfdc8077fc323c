// The sampling points of the deformable scan: from offsets and weights of one token to four taps a point.
//
// A point at (y, x) = p_t + a_k + o reads the four pixels around it. A tap is a pixel's index, times a pitch that leads
// straight to its data (a number below 2^24, so that floats count it), and a factor w_k (1-|dy|) (1-|dx|). A pixel outside the image keeps a valid index (the nearest one
// inside) and gets factor 0, so that the gather needs no branch. Taps are stored corner-major, (4, points): corners (0,0)
// (0,1) (1,0) (1,1) as (y, x).
#pragma once

#include <cstdint>

#include "edge_hands/scan.h"
#include "vector_math.h"

namespace edge_hands {
namespace {

struct Taps {
  int32_t* index;
  float* factor;
};

// One axis of some points: where between two pixels they are, and the two pixels' coordinates, brought inside.
// inside0 and inside1 let a value pass, or make it 0 where the pixel had to be brought inside.
template <class S>
struct Axis {
  using F = typename S::F;
  F fraction, low, high, pixel0, pixel1;

  Axis(F position, int64_t length) {
    const F zero = S::set(0.0f), one = S::set(1.0f), last = S::set(float(length - 1));
    // Beyond these both pixels are outside; NaN goes low.
    position = S::min(S::max(position, S::set(-2.0f)), S::set(float(length + 1)));
    low = S::floor(position), high = S::add(low, one);
    fraction = S::sub(position, low);
    pixel0 = S::min(last, S::max(zero, low));
    pixel1 = S::min(last, S::max(zero, high));
  }
  F inside0(F v) const { return S::if_equal(pixel0, low, v); }
  F inside1(F v) const { return S::if_equal(pixel1, high, v); }
};

// The points of one group or of all, as seen from a token.
struct Points {
  int64_t count;
  const float* anchors;  // (count, 2)
  const float* offset;   // (count, 2)
  const float* weight;   // (count)
};

// Anchors of all groups' points, (dy, dx) each: the n x n grid around 0, row-major, n = sqrt(points).
inline void make_anchors(const Scan& scan, float* anchors) {
  int64_t n = 1;
  while (n * n < scan.points) ++n;
  for (int64_t i = 0; i < scan.groups * scan.points; ++i) {
    const int64_t k = i % scan.points;
    anchors[2 * i] = float(k / n - n / 2);
    anchors[2 * i + 1] = float(k % n - n / 2);
  }
}

// Calls fn(first, n, y, x, weight) for vectors of token t's points: n points from `first` on.
template <class S, class Fn>
EDGE_HANDS_INLINE void for_points(const Scan& scan, int64_t t, const Points& p, Fn fn) {
  using F = typename S::F;
  const F row = S::set(float(t / scan.width)), column = S::set(float(t % scan.width));
  for (int64_t i = 0; i < p.count; i += S::lanes) {
    const int n = p.count - i < S::lanes ? int(p.count - i) : S::lanes;
    F anchor_y, anchor_x, dy, dx;
    S::load_pairs(p.anchors + 2 * i, n, &anchor_y, &anchor_x);
    S::load_pairs(p.offset + 2 * i, n, &dy, &dx);
    fn(i, n, Axis<S>(S::add(S::add(row, anchor_y), dy), scan.height),
       Axis<S>(S::add(S::add(column, anchor_x), dx), scan.width), S::load(p.weight + i, n));
  }
}

template <class S>
EDGE_HANDS_INLINE void make_taps(const Scan& scan, int64_t t, const Points& p, int64_t pitch, const Taps& taps) {
  using F = typename S::F;
  const F one = S::set(1.0f), step = S::set(float(pitch)), row_step = S::set(float(pitch * scan.width));
  for_points<S>(scan, t, p, [&](int64_t i, int n, const Axis<S>& y, const Axis<S>& x, F weight) {
    const F top = S::mul(weight, y.inside0(S::sub(one, y.fraction))), bottom = S::mul(weight, y.inside1(y.fraction));
    const F left = x.inside0(S::sub(one, x.fraction)), right = x.inside1(x.fraction);
    const F at0 = S::mul(x.pixel0, step), at1 = S::mul(x.pixel1, step);
    const auto put = [&](int corner, F row, F at, F factor) {
      S::store_index(taps.index + corner * p.count + i, S::fma(row, row_step, at), n);
      S::store(taps.factor + corner * p.count + i, factor, n);
    };
    put(0, y.pixel0, at0, S::mul(top, left));
    put(1, y.pixel0, at1, S::mul(top, right));
    put(2, y.pixel1, at0, S::mul(bottom, left));
    put(3, y.pixel1, at1, S::mul(bottom, right));
  });
}

// From dots (4, count) = sum over channels of grad_s * x(tap) to the gradients of offset (count, 2) and weight (count).
template <class S>
void point_gradients(const Scan& scan, int64_t t, const Points& p, const float* dots, float* grad_offset,
                     float* grad_weight) {
  using F = typename S::F;
  for_points<S>(scan, t, p, [&](int64_t i, int n, const Axis<S>& y, const Axis<S>& x, F weight) {
    const auto dot = [&](int corner) { return S::load(dots + corner * p.count + i, n); };
    const F q00 = y.inside0(x.inside0(dot(0))), q01 = y.inside0(x.inside1(dot(1)));
    const F q10 = y.inside1(x.inside0(dot(2))), q11 = y.inside1(x.inside1(dot(3)));
    const F top = S::fma(x.fraction, S::sub(q01, q00), q00), bottom = S::fma(x.fraction, S::sub(q11, q10), q10);
    const F left = S::fma(y.fraction, S::sub(q10, q00), q00), right = S::fma(y.fraction, S::sub(q11, q01), q01);
    S::store(grad_weight + i, S::fma(y.fraction, S::sub(bottom, top), top), n);
    float dy[S::lanes], dx[S::lanes];
    S::store(dy, S::mul(weight, S::sub(bottom, top)));
    S::store(dx, S::mul(weight, S::sub(right, left)));
    for (int j = 0; j < n; ++j) grad_offset[2 * (i + j)] = dy[j], grad_offset[2 * (i + j) + 1] = dx[j];
  });
}

// sum over `points` points of factor * pixel, U vectors of it: load(pixels + index, u). Corners are `stride` taps apart.
// Each corner has its own sum: four chains of additions hide each other's latency.
template <class S, int U, class Load>
void gather(const Taps& taps, int64_t points, int64_t stride, const float* pixels, Load load, typename S::F* sum) {
  using F = typename S::F;
  // Unrolled early, or the sums live in memory. One address a tap: left alone, the compiler makes one for each vector.
  F part[4][U];
#pragma GCC unroll 4
  for (auto& corner : part)
#pragma GCC unroll 4
    for (F& v : corner) v = S::set(0.0f);
  for (int64_t k = 0; k < points; ++k)
#pragma GCC unroll 4
    for (int corner = 0; corner < 4; ++corner) {
      const F factor = S::set(taps.factor[k + corner * stride]);
      const float* at = pixels + taps.index[k + corner * stride];
      asm("" : "+r"(at));
#pragma GCC unroll 4
      for (int u = 0; u < U; ++u) part[corner][u] = S::fma(factor, load(at, u), part[corner][u]);
    }
#pragma GCC unroll 4
  for (int u = 0; u < U; ++u) sum[u] = S::add(S::add(part[0][u], part[1][u]), S::add(part[2][u], part[3][u]));
}

}  // namespace
}  // namespace edge_hands
