// The backward kernel of a row. Per tile of channels: run forward once and keep every state and decay (2 L N width
// floats), then walk the tokens backwards.
//
// With g the gradient of h_t that comes from later tokens, gy that of y_t, a = exp(dt A), s the scan's input:
//
//   G   = g + gy C_t                     gC_t += sum_d gy h_t          gA += G h_{t-1} a dt
//   gB_t += sum_d G dt s                 gs = dt sum_n G B_t           gdt = sum_n G (h_{t-1} a A + B_t s)
//   g  <- G a                            gdelta = gdt sigmoid(delta)   gD += gy x,  gx += gy D
//
// and gs goes to x directly, or through the taps to x, offset and weight.
#pragma once

#include "deform.h"
#include "tiles.h"
#include "vector_math.h"

namespace edge_hands {
namespace {

// One image's view of everything a tile needs; rows are indexed by token.
struct BackwardImage {
  const float *x, *delta, *B, *C, *grad_y;
  float *grad_x, *grad_delta, *grad_B, *grad_C;
  float *grad_A, *grad_D;
  // Work of one tile: A, carry, sum_A (N, width); decay, state (L, N, width); image, grad_image, input, dt (L, width);
  // sums 2N vectors.
  float *A, *carry, *sum_A, *decay, *state, *image, *grad_image, *input, *dt, *sums;
  Taps taps;    // (L, 4, K) of the tile's group
  float* dots;  // (L, 4, K)
};

template <class S>
constexpr int64_t kWide = S::tile * S::lanes;

template <class S>
int64_t sums_floats(const Scan& scan) {  // 2N vectors, padded to whole fours
  return (2 * scan.states + 3) / 4 * 4 * S::lanes;
}

template <class S>
size_t backward_floats(const Scan& scan) {
  const int64_t per_state = kWide<S> * scan.states;
  return size_t(per_state * (3 + 2 * scan.length) + 4 * kWide<S> * scan.length + sums_floats<S>(scan) +
                12 * scan.length * scan.points + 2 * scan.groups * scan.points);
}

// Forward over all tokens of a tile, keeping decay, state, input and dt; starts grad_image with gy D.
template <class S, class T>
void replay(const Scan& scan, const T& tile, const BackwardImage& m) {
  using F = typename S::F;
  F D[T::vectors], sum_D[T::vectors];
  for (int u = 0; u < T::vectors; ++u) D[u] = tile.load(scan.D, u), sum_D[u] = tile.load(m.grad_D, u);
  for (int64_t t = 0; t < scan.length; ++t)
    for (int u = 0; u < T::vectors; ++u) {
      const int64_t at = t * kWide<S> + u * S::lanes;
      const F x = tile.load(m.x + t * scan.channels, u), gy = tile.load(m.grad_y + t * scan.channels, u);
      S::store(m.image + at, x);
      S::store(m.grad_image + at, S::mul(gy, D[u]));
      sum_D[u] = S::fma(gy, x, sum_D[u]);
    }
  for (int u = 0; u < T::vectors; ++u) tile.store(m.grad_D, u, sum_D[u]);

  const auto load = [&](const float* at, int u) { return S::load(at + u * S::lanes); };
  const int64_t step = scan.states * T::width;
  for (int64_t t = 0; t < scan.length; ++t) {
    F input[T::vectors], dt[T::vectors];
    const int64_t first = t * 4 * scan.points;
    for (int u = 0; u < T::vectors; ++u) input[u] = load(m.image + t * kWide<S>, u);
    if (scan.points)
      gather<S, T::vectors>({m.taps.index + first, m.taps.factor + first}, scan.points, scan.points, m.image, load, input);
    for (int u = 0; u < T::vectors; ++u) {
      dt[u] = softplus<S>(tile.load(m.delta + t * scan.channels, u));
      S::store(m.input + t * T::width + u * S::lanes, input[u]);
      S::store(m.dt + t * T::width + u * S::lanes, dt[u]);
      input[u] = S::mul(input[u], dt[u]);
    }
    for (int64_t n = 0; n < scan.states; ++n) {
      const F b = S::set(m.B[t * scan.states + n]);
      for (int u = 0; u < T::vectors; ++u) {
        const int64_t i = n * T::width + u * S::lanes;
        const F decay = exp2_product<S>(S::min(S::set(kMaxStep), dt[u]), S::load(m.A + i));
        const F before = t ? S::load(m.state + (t - 1) * step + i) : S::set(0.0f);
        S::store(m.decay + t * step + i, decay);
        S::store(m.state + t * step + i, S::fma(decay, before, S::mul(input[u], b)));
      }
    }
  }
}

// grad_s of one token and tile, through its taps: adds to grad_image and to the taps' dots.
template <class S, class T>
void scatter(const Scan& scan, const BackwardImage& m, int64_t t, const typename S::F* grad_s) {
  using F = typename S::F;
  const int64_t points = scan.points;
  const int32_t* index = m.taps.index + t * 4 * points;
  const float* factor = m.taps.factor + t * 4 * points;
  float* dots = m.dots + t * 4 * points;
  for (int64_t k = 0; k < points; ++k) {
    F dot[4];
    for (int corner = 0; corner < 4; ++corner) {
      const int64_t i = corner * points + k, at = index[i];
      const F f = S::set(factor[i]);
      dot[corner] = S::set(0.0f);
      for (int u = 0; u < T::vectors; ++u) {
        float* grad = m.grad_image + at + u * S::lanes;
        dot[corner] = S::fma(grad_s[u], S::load(m.image + at + u * S::lanes), dot[corner]);
        S::store(grad, S::fma(f, grad_s[u], S::load(grad)));
      }
    }
    float sums[4];
    S::sum4(dot[0], dot[1], dot[2], dot[3], sums);
    for (int corner = 0; corner < 4; ++corner) dots[corner * points + k] += sums[corner];
  }
}

template <class S, class T>
void backward_tile(const Scan& scan, const T& tile, const BackwardImage& m) {
  using F = typename S::F;
  const int64_t states = scan.states, step = states * T::width;
  pack(tile, states, scan.A, packed_rate, m.A);
  replay<S>(scan, tile, m);
  for (int64_t i = 0; i < step; ++i) m.carry[i] = 0.0f, m.sum_A[i] = 0.0f;

  for (int64_t t = scan.length - 1; t >= 0; --t) {
    const int64_t row = t * scan.channels;
    F gy[T::vectors], dt[T::vectors], input[T::vectors], product[T::vectors];
    F through_B[T::vectors], through_A[T::vectors];
    for (int u = 0; u < T::vectors; ++u) {
      gy[u] = tile.load(m.grad_y + row, u);
      dt[u] = S::load(m.dt + t * T::width + u * S::lanes);
      input[u] = S::load(m.input + t * T::width + u * S::lanes);
      product[u] = S::mul(dt[u], input[u]);
      through_B[u] = through_A[u] = S::set(0.0f);
    }
    for (int64_t n = 0; n < states; ++n) {
      const F b = S::set(m.B[t * states + n]), c = S::set(m.C[t * states + n]);
      F sum_B = S::set(0.0f), sum_C = S::set(0.0f);
      for (int u = 0; u < T::vectors; ++u) {
        const int64_t i = n * T::width + u * S::lanes;
        const F decay = S::load(m.decay + t * step + i), state = S::load(m.state + t * step + i);
        const F before = t ? S::load(m.state + (t - 1) * step + i) : S::set(0.0f);
        const F G = S::fma(gy[u], c, S::load(m.carry + i));
        const F Ga = S::mul(G, decay), Gah = S::mul(Ga, before);
        S::store(m.carry + i, Ga);
        S::store(m.sum_A + i, S::fma(Gah, dt[u], S::load(m.sum_A + i)));
        through_A[u] = S::fma(Gah, S::load(m.A + i), through_A[u]);
        through_B[u] = S::fma(G, b, through_B[u]);
        sum_B = S::fma(G, product[u], sum_B);
        sum_C = S::fma(gy[u], state, sum_C);
      }
      S::store(m.sums + n * S::lanes, sum_B);
      S::store(m.sums + (states + n) * S::lanes, sum_C);
    }
    for (int64_t i = 0; i < 2 * states; i += 4) {
      float four[4];
      const float* v = m.sums + i * S::lanes;
      S::sum4(S::load(v), S::load(v + S::lanes), S::load(v + 2 * S::lanes), S::load(v + 3 * S::lanes), four);
      for (int64_t j = i; j < i + 4 && j < 2 * states; ++j)
        (j < states ? m.grad_B[t * states + j] : m.grad_C[t * states + j - states]) += four[j - i];
    }
    F grad_s[T::vectors];
    for (int u = 0; u < T::vectors; ++u) {
      // A is packed times log2(e): ln 2 takes it back.
      const F grad_dt = S::fma(through_A[u], S::set(kLn2), S::mul(through_B[u], input[u]));
      tile.store(m.grad_delta + row, u, S::mul(grad_dt, sigmoid<S>(tile.load(m.delta + row, u))));
      grad_s[u] = S::mul(through_B[u], dt[u]);
    }
    if (scan.points) {
      scatter<S, T>(scan, m, t, grad_s);
    } else {
      for (int u = 0; u < T::vectors; ++u) {
        float* grad = m.grad_image + t * kWide<S> + u * S::lanes;
        S::store(grad, S::add(S::load(grad), grad_s[u]));
      }
    }
  }
  for (int64_t t = 0; t < scan.length; ++t)
    for (int u = 0; u < T::vectors; ++u)
      tile.store(m.grad_x + t * scan.channels, u, S::load(m.grad_image + t * kWide<S> + u * S::lanes));
  for (int i = 0; i < tile.count; ++i)
    for (int64_t n = 0; n < states; ++n) m.grad_A[(tile.channel + i) * states + n] += m.sum_A[n * T::width + i];
}

template <class S>
void backward(const Scan& scan, int64_t image, const float* grad_y, const ScanGradients& gradients, float* grad_A,
              float* grad_D, float* work) {
  const int64_t length = scan.length, states = scan.states, points = scan.points, all = scan.groups * points;
  const int64_t rows = image * length * scan.channels, states_at = image * length * states;
  const int64_t per_state = kWide<S> * states, per_group = scan.channels / scan.groups;

  BackwardImage m{};
  m.x = scan.x + rows, m.delta = scan.delta + rows, m.grad_y = grad_y + rows;
  m.B = scan.B + states_at, m.C = scan.C + states_at;
  m.grad_x = gradients.x + rows, m.grad_delta = gradients.delta + rows;
  m.grad_B = gradients.B + states_at, m.grad_C = gradients.C + states_at;
  m.grad_A = grad_A, m.grad_D = grad_D;
  const auto take = [&work](int64_t floats) { return work += floats, work - floats; };
  m.A = take(per_state), m.carry = take(per_state), m.sum_A = take(per_state);
  m.decay = take(length * per_state), m.state = take(length * per_state);
  m.image = take(length * kWide<S>), m.grad_image = take(length * kWide<S>);
  m.input = take(length * kWide<S>), m.dt = take(length * kWide<S>);
  m.sums = take(sums_floats<S>(scan));
  for (int64_t i = 0; i < sums_floats<S>(scan); ++i) m.sums[i] = 0.0f;
  m.taps.index = reinterpret_cast<int32_t*>(take(4 * length * points));
  m.taps.factor = take(4 * length * points), m.dots = take(4 * length * points);
  float* anchors = take(2 * all);
  if (points) make_anchors(scan, anchors);

  for (int64_t i = 0; i < length * states; ++i) m.grad_B[i] = 0.0f, m.grad_C[i] = 0.0f;
  for (int64_t group = 0; group < scan.groups; ++group) {
    const auto at = [&](int64_t t) { return (image * length + t) * all + group * points; };
    const auto points_of = [&](int64_t t) {
      return Points{points, anchors + 2 * group * points, scan.offset + 2 * at(t), scan.weight + at(t)};
    };
    for (int64_t t = 0; t < length && points; ++t)
      make_taps<S>(scan, t, points_of(t), kWide<S>, {m.taps.index + 4 * t * points, m.taps.factor + 4 * t * points});
    for (int64_t i = 0; i < 4 * length * points; ++i) m.dots[i] = 0.0f;
    for_tiles<S>(group * per_group, (group + 1) * per_group, [&](auto tile) { backward_tile<S>(scan, tile, m); });
    for (int64_t t = 0; t < length && points; ++t)
      point_gradients<S>(scan, t, points_of(t), m.dots + 4 * t * points, gradients.offset + 2 * at(t),
                         gradients.weight + at(t));
  }
}

}  // namespace
}  // namespace edge_hands
