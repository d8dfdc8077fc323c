// scan_forward of every row against the reference: float32 and int8, with and without states, 1 and 3 threads, at two
// alignments, and cut in two with the state handed on.
#include <algorithm>

#include "problem.h"
#include "report.h"

using namespace edge_hands;

namespace {

struct Output {
  explicit Output(const Problem& p)
      : y(p.x.size(), p.place), y_int8(p.x.size(), p.place), state(p.state.size(), p.place) {}
  ScanOutput floats(bool with_state = true) { return {y.data(), nullptr, {}, with_state ? state.data() : nullptr}; }
  ScanOutput bytes(const Quantization& q, bool with_state = true) {
    return {nullptr, y_int8.data(), q, with_state ? state.data() : nullptr};
  }
  bool intact() const { return y.intact() && y_int8.intact() && state.intact(); }

  Floats y;
  Bytes y_int8;
  Floats state;
};

double tolerance(const Case& c) { return c.hard ? 2e-5 : 2e-6; }

// A quantisation that the exact y uses well and saturates here and there.
Quantization fitting(const Doubles& y) {
  double largest = 1e-3;
  for (double v : y) largest = std::fmax(largest, std::fabs(v));
  return {float(largest / 100), 13};
}

// Steps from the reference's int8, where a real value half way between two may go either way.
double int8_error(const Bytes& found, const Doubles& exact, const Quantization& q) {
  const std::vector<int> expected = exact_int8(exact, q);
  int worst = 0;
  for (int64_t i = 0; i < found.size(); ++i) worst = std::max(worst, std::abs(found[i] - expected[size_t(i)]));
  return worst;
}

// What one case's calls are held to, computed once for all rows: with the initial state and without.
struct Expected {
  Expected(const Problem& p, bool deformable)
      : floats(exact_forward(p.scan(deformable))),
        fresh_floats(exact_forward(p.scan(deformable, false))),
        int8(exact_forward(p.scan_int8(deformable))),
        fresh_int8(exact_forward(p.scan_int8(deformable, false))) {}
  ExactForward floats, fresh_floats, int8, fresh_int8;
};

std::string full_name(const Problem& p, bool deformable, const char* kind) {
  return std::string(p.sizes.name) + (deformable ? "/deformable/" : "/selective/") + kind;
}

void check_floats(Report& report, const Row& row, const Problem& p, bool deformable, const Expected& expected,
                  uint64_t& hash) {
  const std::string name = full_name(p, deformable, "float");
  const ExactForward &exact = expected.floats, &fresh = expected.fresh_floats;
  Output one(p), three(p), stateless(p);
  scan_forward(row, p.scan(deformable), one.floats(), 1);
  scan_forward(row, p.scan(deformable), three.floats(), 3);
  scan_forward(row, p.scan(deformable, false), stateless.floats(false), 1);
  const double error = std::fmax(relative_error(one.y, exact.y), relative_error(one.state, exact.state));
  const Hash found = Hash().add(one.y).add(one.state).add(stateless.y);
  if (p.place == Place::kEnd)
    report.line(row, name, std::fmax(error, relative_error(stateless.y, fresh.y)), tolerance(p.sizes), found);
  else
    report.check(found.value() == hash, row, name, "alignment changes nothing");
  hash = found.value();
  report.check(same(one.y, three.y) && same(one.state, three.state), row, name, "threads change nothing");
  report.check(one.intact() && three.intact() && stateless.intact(), row, name, "nothing is written out of bounds");
}

void check_int8(Report& report, const Row& row, const Problem& p, bool deformable, const Expected& expected,
                uint64_t& hash) {
  const std::string name = full_name(p, deformable, "int8");
  const Scan scan = p.scan_int8(deformable), without = p.scan_int8(deformable, false);
  const ExactForward &exact = expected.int8, &fresh = expected.fresh_int8;
  const Quantization q = fitting(exact.y), tight{q.scale / 2, -128};  // half of the second saturates
  Output one(p), three(p), stateless(p), mixed(p);
  scan_forward(row, scan, one.bytes(q), 1);
  scan_forward(row, scan, three.bytes(q), 3);
  scan_forward(row, without, stateless.bytes(tight, false), 1);
  const double error = std::fmax(int8_error(one.y_int8, exact.y, q), int8_error(stateless.y_int8, fresh.y, tight));
  const double state_error = relative_error(one.state, exact.state);
  Hash found = Hash().add(one.y_int8).add(one.state).add(stateless.y_int8);
  // int8 in and float32 out, and the other way round.
  scan_forward(row, scan, mixed.floats(), 1);
  report.check(relative_error(mixed.y, exact.y) <= tolerance(p.sizes), row, name, "float32 y of int8 x is exact");
  found.add(mixed.y);
  scan_forward(row, p.scan(deformable), mixed.bytes(q), 1);
  report.check(int8_error(mixed.y_int8, expected.floats.y, q) <= 1, row, name, "int8 y of float32 x is within 1");
  found.add(mixed.y_int8);
  if (p.place == Place::kEnd) {
    report.line(row, name, error, 1, found);
    report.check(state_error <= tolerance(p.sizes), row, name, "the state is exact");
  } else {
    report.check(found.value() == hash, row, name, "alignment changes nothing");
  }
  hash = found.value();
  report.check(same(one.y_int8, three.y_int8) && same(one.state, three.state), row, name, "threads change nothing");
  report.check(one.intact() && three.intact() && stateless.intact() && mixed.intact(), row, name,
               "nothing is written out of bounds");
}

// Image by image, first `cut` tokens and then the rest, the state kept in place: the same bits as at one go.
void check_streaming(Report& report, const Row& row, const Problem& p, bool int8) {
  const std::string name = full_name(p, false, int8 ? "int8/streamed" : "float/streamed");
  const int64_t length = p.sizes.length(), cut = length / 3;
  const Scan scan = int8 ? p.scan_int8(false) : p.scan(false);
  const Quantization q{0.05f, 3};
  Output whole(p), parts(p);
  scan_forward(row, scan, int8 ? whole.bytes(q) : whole.floats(), 1);
  std::copy(p.state.begin(), p.state.end(), parts.state.begin());
  for (int64_t image = 0; image < p.sizes.batch; ++image)
    for (int part = 0; part < 2; ++part) {
      const int64_t token = image * length + (part ? cut : 0), at = token * scan.channels;
      Scan some = scan;
      some.batch = 1, some.length = part ? length - cut : cut;
      if (int8) some.x_int8 += at;
      else some.x += at;
      some.delta += at, some.B += token * scan.states, some.C += token * scan.states;
      ScanOutput out = int8 ? parts.bytes(q) : parts.floats();
      if (int8) out.y_int8 += at;
      else out.y += at;
      out.state += image * scan.channels * scan.states;
      some.state = out.state;
      scan_forward(row, some, out, 1);
    }
  report.check(int8 ? same(whole.y_int8, parts.y_int8) : same(whole.y, parts.y), row, name, "y is that of one go");
  report.check(same(whole.state, parts.state), row, name, "the state is that of one go");
}

}  // namespace

void check_forward(Report& report) {
  for (const Case& c : all_cases()) {
    if (!report.wants(c.name)) continue;
    const Problem at_end(c, Place::kEnd), at_offset(c, Place::kOffset);
    for (bool deformable : {false, true}) {
      const Expected expected(at_end, deformable);
      for_rows([&](const Row& row) {
        uint64_t floats = 0, bytes = 0;
        for (const Problem* p : {&at_end, &at_offset}) {
          check_floats(report, row, *p, deformable, expected, floats);
          check_int8(report, row, *p, deformable, expected, bytes);
        }
      });
    }
    for_rows([&](const Row& row) {
      check_streaming(report, row, at_end, false);
      check_streaming(report, row, at_end, true);
    });
  }
}
