// The sampling points of the deformable scan: from offsets and weights of one token to four taps a point.
//
// A point at (y, x) = p_t + a_k + o reads the four pixels around it. A tap is a pixel's index and a factor
// w_k (1-|dy|) (1-|dx|). A pixel outside the image keeps a valid index (the nearest one inside) and gets factor 0, so
// that the gather needs no branch. Taps are stored corner-major, (4, points): corners (0,0) (0,1) (1,0) (1,1) as (y, x).
#pragma once

#include <cstdint>

#include "edge_hands/scan.h"

namespace edge_hands {
namespace {

struct Taps {
  int32_t* index;
  float* factor;
};

// One axis of some points: where between two pixels they are, which of the two lie inside (0 or 1), and the two pixels'
// coordinates, brought inside.
template <class S>
struct Axis {
  using F = typename S::F;
  F fraction, inside0, inside1, pixel0, pixel1;

  Axis(F position, int64_t length) {
    const F zero = S::set(0.0f), one = S::set(1.0f), size = S::set(float(length)), last = S::set(float(length - 1));
    // Beyond these both pixels are outside; NaN goes low.
    position = S::min(S::max(position, S::set(-2.0f)), S::add(size, one));
    const F low = S::floor(position), high = S::add(low, one);
    fraction = S::sub(position, low);
    inside0 = S::max(zero, S::min(one, S::min(high, S::sub(size, low))));
    inside1 = S::max(zero, S::min(one, S::min(S::add(high, one), S::sub(last, low))));
    pixel0 = S::min(last, S::max(zero, low));
    pixel1 = S::min(last, S::max(zero, high));
  }
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
void for_points(const Scan& scan, int64_t t, const Points& p, Fn fn) {
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
void make_taps(const Scan& scan, int64_t t, const Points& p, const Taps& taps) {
  using F = typename S::F;
  const F one = S::set(1.0f), width = S::set(float(scan.width));
  for_points<S>(scan, t, p, [&](int64_t i, int n, const Axis<S>& y, const Axis<S>& x, F weight) {
    const F top = S::mul(weight, S::mul(S::sub(one, y.fraction), y.inside0));
    const F bottom = S::mul(weight, S::mul(y.fraction, y.inside1));
    const F left = S::mul(S::sub(one, x.fraction), x.inside0), right = S::mul(x.fraction, x.inside1);
    const auto put = [&](int corner, F row, F column, F factor) {
      S::store_int(taps.index + corner * p.count + i, S::fma(row, width, column), n);
      S::store(taps.factor + corner * p.count + i, factor, n);
    };
    put(0, y.pixel0, x.pixel0, S::mul(top, left));
    put(1, y.pixel0, x.pixel1, S::mul(top, right));
    put(2, y.pixel1, x.pixel0, S::mul(bottom, left));
    put(3, y.pixel1, x.pixel1, S::mul(bottom, right));
  });
}

// From dots (4, count) = sum over channels of grad_s * x(tap) to the gradients of offset (count, 2) and weight (count).
template <class S>
void point_gradients(const Scan& scan, int64_t t, const Points& p, const float* dots, float* grad_offset,
                     float* grad_weight) {
  using F = typename S::F;
  for_points<S>(scan, t, p, [&](int64_t i, int n, const Axis<S>& y, const Axis<S>& x, F weight) {
    const auto dot = [&](int corner, F row, F column) {
      return S::mul(S::load(dots + corner * p.count + i, n), S::mul(row, column));
    };
    const F q00 = dot(0, y.inside0, x.inside0), q01 = dot(1, y.inside0, x.inside1);
    const F q10 = dot(2, y.inside1, x.inside0), q11 = dot(3, y.inside1, x.inside1);
    const F top = S::fma(x.fraction, S::sub(q01, q00), q00), bottom = S::fma(x.fraction, S::sub(q11, q10), q10);
    const F left = S::fma(y.fraction, S::sub(q10, q00), q00), right = S::fma(y.fraction, S::sub(q11, q01), q01);
    S::store(grad_weight + i, S::fma(y.fraction, S::sub(bottom, top), top), n);
    float dy[S::lanes], dx[S::lanes];
    S::store(dy, S::mul(weight, S::sub(bottom, top)));
    S::store(dx, S::mul(weight, S::sub(right, left)));
    for (int j = 0; j < n; ++j) grad_offset[2 * (i + j)] = dy[j], grad_offset[2 * (i + j) + 1] = dx[j];
  });
}

// sum over `points` points of factor * pixel(index, u) for each of U vectors; corners of the taps are `stride` apart.
template <class S, int U, class Pixel>
void gather(const Taps& taps, int64_t points, int64_t stride, Pixel pixel, typename S::F* sum) {
  for (int u = 0; u < U; ++u) sum[u] = S::set(0.0f);
  for (int corner = 0; corner < 4; ++corner)
    for (int64_t k = corner * stride; k < corner * stride + points; ++k) {
      const typename S::F factor = S::set(taps.factor[k]);
      for (int u = 0; u < U; ++u) sum[u] = S::fma(factor, pixel(taps.index[k], u), sum[u]);
    }
}

}  // namespace
}  // namespace edge_hands
