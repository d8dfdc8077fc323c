// What scan.h says of zero, denormal, huge, infinite and NaN inputs, row by row. Lines are compared with the reference
// like any others; statements that need no reference compare two runs bit by bit.
#include <algorithm>
#include <functional>

#include "problem.h"
#include "report.h"

using namespace edge_hands;

namespace {

const Case kCase = {"special", 2, 3, 4, 36, 5, 3};
const Quantization kQuantization{0.05f, 3};

struct Run {
  Run(const Row& row, const Problem& p, bool deformable)
      : y(p.x.size(), Place::kEnd), state(p.state.size(), Place::kEnd), y_int8(p.x.size(), Place::kEnd) {
    scan_forward(row, p.scan(deformable), {nullptr, y_int8.data(), kQuantization, state.data()}, 1);
    scan_forward(row, p.scan(deformable), {y.data(), nullptr, {}, state.data()}, 1);
  }
  Floats y, state;
  Bytes y_int8;
};

// What one gradient call writes for x, delta, offset and weight.
struct BackwardRun {
  BackwardRun(const Row& row, const Problem& p)
      : x(p.x.size(), Place::kEnd),
        delta(p.x.size(), Place::kEnd),
        A(p.A.size(), Place::kEnd),
        B(p.B.size(), Place::kEnd),
        C(p.C.size(), Place::kEnd),
        D(p.D.size(), Place::kEnd),
        offset(p.offset.size(), Place::kEnd),
        weight(p.weight.size(), Place::kEnd) {
    scan_backward(row, p.scan(true, false), p.grad_y.data(),
                  {x.data(), delta.data(), A.data(), B.data(), C.data(), D.data(), offset.data(), weight.data()}, 1);
  }
  Floats x, delta, A, B, C, D, offset, weight;
};

bool equal(float a, float b) { return a == b || (a != a && b != b); }

// Equal values: zeros of either sign are one, all NaN are one.
bool equal(const Floats& a, const Floats& b, const std::function<bool(int64_t)>& at = [](int64_t) { return true; }) {
  for (int64_t i = 0; i < a.size(); ++i)
    if (at(i) && !equal(a[i], b[i])) return false;
  return true;
}

bool all(const Floats& a, bool (*holds)(float)) {
  for (float v : a)
    if (!holds(v)) return false;
  return true;
}

struct Input {
  const char* name;
  Floats Problem::*array;
};
const Input kInputs[] = {{"x", &Problem::x},           {"delta", &Problem::delta},   {"A", &Problem::A},
                         {"B", &Problem::B},           {"C", &Problem::C},           {"D", &Problem::D},
                         {"offset", &Problem::offset}, {"weight", &Problem::weight}, {"state", &Problem::state}};

void set_all(Floats& array, float value) {
  for (float& v : array) v = value;
}

void compare(Report& report, const Row& row, const Problem& p, const std::string& name, double tolerance) {
  for (bool deformable : {false, true}) {
    const Run found(row, p, deformable);
    const ExactForward exact = exact_forward(p.scan(deformable));
    const double error = std::fmax(relative_error(found.y, exact.y), relative_error(found.state, exact.state));
    report.line(row, name + (deformable ? "/deformable" : "/selective"), error, tolerance,
                Hash().add(found.y).add(found.state).add(found.y_int8));
  }
}

void check_zero_and_denormal(Report& report, const Row& row) {
  Problem nothing(kCase, Place::kEnd);
  for (const Input& input : kInputs) set_all(nothing.*input.array, 0.0f);
  compare(report, row, nothing, "special/zero", 0);

  for (const Input& input : kInputs) {
    Problem zero(kCase, Place::kEnd), denormal(kCase, Place::kEnd);
    set_all(zero.*input.array, 0.0f);
    set_all(denormal.*input.array, 1e-40f);
    for (bool deformable : {false, true}) {
      const Run a(row, zero, deformable), b(row, denormal, deformable);
      report.check(equal(a.y, b.y) && equal(a.state, b.state) && same(a.y_int8, b.y_int8), row,
                   std::string("special/denormal_") + input.name, "a denormal input counts as 0");
    }
  }

  Problem fading(kCase, Place::kEnd);  // states shrink to some 1e-42
  set_all(fading.A, -96.0f), set_all(fading.delta, 0.5413249f), set_all(fading.x, 0.0f), set_all(fading.state, 1.0f);
  const Run faded(row, fading, false);
  report.check(all(faded.state, [](float v) { return v == 0.0f; }), row, "special/fading", "no denormal state is made");
  volatile float tiny = 1e-39f;
  report.check(tiny * 0.5f > 0.0f, row, "special/fading", "the caller's own denormals come back");
}

// Every seventh channel takes huge steps, up or down; the others must not notice.
void check_huge_steps(Report& report, const Row& row) {
  const Problem plain(kCase, Place::kEnd);
  const auto ordinary = [](int64_t i) { return i % kCase.channels % 7 != 0; };
  for (float step : {100.0f, 1e4f, 1e30f, -100.0f, -1e4f, -1e30f}) {
    Problem p(kCase, Place::kEnd);
    for (int64_t i = 0; i < p.delta.size(); ++i)
      if (!ordinary(i)) p.delta[i] = step;
    char name[48];
    std::snprintf(name, sizeof name, "special/delta_%g", double(step));
    compare(report, row, p, name, 2e-6);
    const Run found(row, p, true), expected(row, plain, true);
    report.check(all(found.y, [](float v) { return bool(std::isfinite(v)); }), row, name, "finite in, finite out");
    report.check(equal(found.y, expected.y, ordinary), row, name, "other channels do not change");
  }
}

// Rates so fast that every state fades at once, with steps small and huge; finite in, finite out.
void check_huge_rates(Report& report, const Row& row) {
  for (float rate : {-1e3f, -1e6f, -1e10f, -1e20f, -3e38f})
    for (float step : {0.0f, 1e4f}) {
      Problem p(kCase, Place::kEnd);
      for (int64_t i = 0; i < p.A.size(); i += 2) p.A[i] = rate;
      for (int64_t i = 0; step > 0 && i < p.delta.size(); i += 3) p.delta[i] = step;
      char name[48];
      std::snprintf(name, sizeof name, "special/A_%g_delta_%g", double(rate), double(step));
      compare(report, row, p, name, 2e-6);
    }
}

// One element of one input at a time; the reference follows IEEE arithmetic in doubles. The deformable scan may spread a
// non-finite pixel to points that only touch it with factor 0, and is held to the channels that it may reach instead.
void check_not_finite(Report& report, const Row& row) {
  for (const Input& input : kInputs)
    for (float value : {INFINITY, -INFINITY, NAN}) {
      Problem p(kCase, Place::kEnd);
      Floats& array = p.*input.array;
      const int64_t at = array.size() / 3;
      array[at] = value;
      char name[48];
      std::snprintf(name, sizeof name, "special/%s_%g", input.name, double(std::fabs(value)) * (value < 0 ? -1 : 1));
      const Run found(row, p, false);
      const ExactForward exact = exact_forward(p.scan(false));
      report.line(row, name, std::fmax(relative_error(found.y, exact.y), relative_error(found.state, exact.state)), 2e-6,
                  Hash().add(found.y).add(found.state).add(found.y_int8));
      for (int64_t i = 0; i < found.y.size(); ++i)
        if (exact.y[size_t(i)] != exact.y[size_t(i)])
          report.check(found.y_int8[i] == -128, row, name, "an int8 y from NaN is -128");
        else if (std::isinf(exact.y[size_t(i)]))
          report.check(found.y_int8[i] == (exact.y[size_t(i)] > 0 ? 127 : -128), row, name, "infinity saturates");
      BackwardRun(row, p);  // only that it stays within its arrays
    }

  const Problem plain(kCase, Place::kEnd);
  const int64_t channels = kCase.channels, per_image = kCase.length() * channels;
  for (float value : {INFINITY, NAN}) {
    Problem p(kCase, Place::kEnd);
    const int64_t at = per_image + 7 * channels + 17;  // image 1, token 7, channel 17
    p.x[at] = value;
    const Run found(row, p, true), expected(row, plain, true);
    const auto elsewhere = [&](int64_t i) { return i < per_image || i % channels != 17; };
    report.check(equal(found.y, expected.y, elsewhere), row, "special/deformable_x", "other channels do not change");
    report.check(!std::isfinite(found.y[at]), row, "special/deformable_x", "the pixel itself is not finite");
  }
}

// A point whose offset is NaN samples nothing, nor does one that is infinitely far: as if its weight were 0.
void check_lost_points(Report& report, const Row& row) {
  for (float value : {NAN, INFINITY, -INFINITY, 3e38f})
    for (int axis : {0, 1}) {
      Problem lost(kCase, Place::kEnd), absent(kCase, Place::kEnd);
      for (int64_t point = 0; point < lost.weight.size(); point += 4) {
        lost.offset[2 * point + axis] = value;
        absent.weight[point] = 0.0f;
      }
      const Run a(row, lost, true), b(row, absent, true);
      report.check(equal(a.y, b.y) && equal(a.state, b.state) && same(a.y_int8, b.y_int8), row, "special/lost_points",
                   "a point at NaN or infinity samples nothing");
      const BackwardRun c(row, lost), d(row, absent);
      report.check(equal(c.x, d.x) && equal(c.delta, d.delta) && equal(c.A, d.A) && equal(c.B, d.B) &&
                       equal(c.C, d.C) && equal(c.D, d.D),
                   row, "special/lost_points", "it gives x and the rest no gradient");
      for (int64_t point = 0; point < lost.weight.size(); point += 4)
        report.check(c.weight[point] == 0 && c.offset[2 * point] == 0 && c.offset[2 * point + 1] == 0, row,
                     "special/lost_points", "it has no gradient of its own");
      report.check(equal(c.weight, d.weight, [](int64_t i) { return i % 4 != 0; }), row, "special/lost_points",
                   "the others' gradients do not change");
    }
}

void check_int8_extremes(Report& report, const Row& row) {
  for (int zero_point : {-128, 0, 127})
    for (int8_t value : {int8_t(-128), int8_t(127)}) {
      Problem p(kCase, Place::kEnd);
      p.x_quantization = {1e-3f, zero_point};
      for (int8_t& v : p.x_int8) v = value;
      const ExactForward exact = exact_forward(p.scan_int8(true));
      const Quantization q{2e-3f, zero_point};
      const std::vector<int> expected = exact_int8(exact.y, q);
      Bytes y(p.x.size(), Place::kEnd);
      scan_forward(row, p.scan_int8(true), {nullptr, y.data(), q, nullptr}, 1);
      int worst = 0;
      for (int64_t i = 0; i < y.size(); ++i) worst = std::max(worst, std::abs(y[i] - expected[size_t(i)]));
      report.line(row, "special/int8_" + std::to_string(value) + "_zero_" + std::to_string(zero_point), worst, 1,
                  Hash().add(y));
    }
}

}  // namespace

void check_special(Report& report) {
  if (!report.wants("special")) return;
  for_rows([&](const Row& row) {
    check_zero_and_denormal(report, row);
    check_huge_steps(report, row);
    check_huge_rates(report, row);
    check_not_finite(report, row);
    check_lost_points(report, row);
    check_int8_extremes(report, row);
  });
}
