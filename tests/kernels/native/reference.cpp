#include "reference.h"

#include <algorithm>
#include <cmath>

using edge_hands::Scan;

namespace {

double softplus(double v) { return std::fmax(v, 0.0) + std::log1p(std::exp(-std::fabs(v))); }
double sigmoid(double v) { return 1.0 / (1.0 + std::exp(-v)); }

double input_x(const Scan& s, int64_t i) {
  return s.x_int8 ? double(s.x_quantization.scale) * (s.x_int8[i] - s.x_quantization.zero_point) : double(s.x[i]);
}

// One of the four pixels around a sampling point: its token (within the image), its bilinear factor, and that factor's
// derivatives by the point's y and x.
struct Tap {
  int64_t token;
  double factor, by_y, by_x;
};

// Calls fn(tap) for the pixels inside the image around point k of token t; none when the position is NaN.
template <class Fn>
void for_taps(const Scan& s, int64_t t, int64_t k, const float* offset, Fn fn) {
  int64_t n = 1;
  while (n * n < s.points) ++n;
  const double y = double(t / s.width + k / n - n / 2) + offset[0], x = double(t % s.width + k % n - n / 2) + offset[1];
  const double top = std::floor(y), left = std::floor(x);
  for (int below = 0; below < 2; ++below)
    for (int right = 0; right < 2; ++right) {
      const double row = top + below, column = left + right;
      if (!(row >= 0 && row < double(s.height) && column >= 0 && column < double(s.width))) continue;
      const double fy = 1 - std::fabs(y - row), fx = 1 - std::fabs(x - column);
      fn(Tap{int64_t(row) * s.width + int64_t(column), fy * fx, (below ? 1 : -1) * fx, (right ? 1 : -1) * fy});
    }
}

// Calls fn(point index in offset / 2 and weight, tap) for what channel d of image b reads at token t.
template <class Fn>
void for_points(const Scan& s, int64_t b, int64_t t, int64_t d, Fn fn) {
  const int64_t group = d / (s.channels / s.groups);
  for (int64_t k = 0; k < s.points; ++k) {
    const int64_t i = ((b * s.length + t) * s.groups + group) * s.points + k;
    for_taps(s, t, k, s.offset + 2 * i, [&](const Tap& tap) { fn(i, tap); });
  }
}

double scan_input(const Scan& s, int64_t b, int64_t t, int64_t d) {
  const auto x = [&](int64_t token) { return input_x(s, (b * s.length + token) * s.channels + d); };
  if (!s.points) return x(t);
  double sum = 0;
  for_points(s, b, t, d, [&](int64_t i, const Tap& tap) { sum += s.weight[i] * tap.factor * x(tap.token); });
  return sum;
}

}  // namespace

ExactForward exact_forward(const Scan& s) {
  ExactForward out{Doubles(size_t(s.batch * s.length * s.channels)), Doubles(size_t(s.batch * s.channels * s.states))};
  for (int64_t b = 0; b < s.batch; ++b)
    for (int64_t d = 0; d < s.channels; ++d) {
      double* h = out.state.data() + (b * s.channels + d) * s.states;
      for (int64_t n = 0; n < s.states; ++n) h[n] = s.state ? s.state[(b * s.channels + d) * s.states + n] : 0.0;
      for (int64_t t = 0; t < s.length; ++t) {
        const int64_t i = (b * s.length + t) * s.channels + d, row = (b * s.length + t) * s.states;
        const double dt = softplus(s.delta[i]), input = scan_input(s, b, t, d);
        double y = s.D[d] * input_x(s, i);
        for (int64_t n = 0; n < s.states; ++n) {
          h[n] = std::exp(dt * s.A[d * s.states + n]) * h[n] + dt * s.B[row + n] * input;
          y += s.C[row + n] * h[n];
        }
        out.y[size_t(i)] = y;
      }
    }
  return out;
}

ExactGradients exact_backward(const Scan& s, const float* grad_y) {
  const size_t rows = size_t(s.batch * s.length), points = size_t(s.points ? s.groups * s.points : 0);
  ExactGradients g{Doubles(rows * size_t(s.channels)),  Doubles(rows * size_t(s.channels)),
                   Doubles(size_t(s.channels * s.states)), Doubles(rows * size_t(s.states)),
                   Doubles(rows * size_t(s.states)),    Doubles(size_t(s.channels)),
                   Doubles(rows * points * 2),          Doubles(rows * points)};
  Doubles h(size_t((s.length + 1) * s.states)), carry(size_t(s.states)), input(size_t(s.length));
  for (int64_t b = 0; b < s.batch; ++b)
    for (int64_t d = 0; d < s.channels; ++d) {
      const float* A = s.A + d * s.states;
      const auto at = [&](int64_t t) { return (b * s.length + t) * s.channels + d; };
      std::fill(h.begin(), h.end(), 0.0);
      std::fill(carry.begin(), carry.end(), 0.0);
      for (int64_t t = 0; t < s.length; ++t) {
        const double dt = softplus(s.delta[at(t)]);
        input[size_t(t)] = scan_input(s, b, t, d);
        for (int64_t n = 0; n < s.states; ++n)
          h[size_t((t + 1) * s.states + n)] = std::exp(dt * A[n]) * h[size_t(t * s.states + n)] +
                                              dt * s.B[(b * s.length + t) * s.states + n] * input[size_t(t)];
      }
      for (int64_t t = s.length - 1; t >= 0; --t) {
        const int64_t i = at(t), row = (b * s.length + t) * s.states;
        const double dt = softplus(s.delta[i]), gy = grad_y[i];
        double grad_dt = 0, grad_input = 0;
        for (int64_t n = 0; n < s.states; ++n) {
          const double before = h[size_t(t * s.states + n)], decay = std::exp(dt * A[n]);
          const double G = carry[size_t(n)] + gy * s.C[row + n];
          g.C[size_t(row + n)] += gy * h[size_t((t + 1) * s.states + n)];
          g.B[size_t(row + n)] += G * dt * input[size_t(t)];
          g.A[size_t(d * s.states + n)] += G * before * decay * dt;
          grad_dt += G * (before * decay * A[n] + s.B[row + n] * input[size_t(t)]);
          grad_input += G * dt * s.B[row + n];
          carry[size_t(n)] = G * decay;
        }
        g.delta[size_t(i)] = grad_dt * sigmoid(s.delta[i]);
        g.D[size_t(d)] += gy * s.x[i];
        g.x[size_t(i)] += gy * s.D[d];
        if (!s.points) g.x[size_t(i)] += grad_input;
        for_points(s, b, t, d, [&](int64_t p, const Tap& tap) {
          const double x = s.x[at(tap.token)];
          g.x[size_t(at(tap.token))] += grad_input * s.weight[p] * tap.factor;
          g.weight[size_t(p)] += grad_input * tap.factor * x;
          g.offset[size_t(2 * p)] += grad_input * s.weight[p] * tap.by_y * x;
          g.offset[size_t(2 * p + 1)] += grad_input * s.weight[p] * tap.by_x * x;
        });
      }
    }
  return g;
}

std::vector<int> exact_int8(const Doubles& y, const edge_hands::Quantization& q) {
  std::vector<int> out;
  for (double v : y) out.push_back(int(std::fmin(127, std::fmax(-128, std::nearbyint(v / q.scale) + q.zero_point))));
  return out;
}
