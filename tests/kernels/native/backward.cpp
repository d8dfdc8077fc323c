// scan_backward of every row against the reference, 1 and 3 threads, at two alignments.
//
// A line's hash covers what each channel has for itself: the gradients of x, delta, A and D. Those of B, C, offset and
// weight are sums over channels, taken in the order of a row's vectors, and differ between rows by rounding: they have a
// line of their own, "/sums".
#include "problem.h"
#include "report.h"

using namespace edge_hands;

namespace {

struct Gradients {
  Gradients(const Problem& p, bool deformable)
      : x(p.x.size(), p.place),
        delta(p.delta.size(), p.place),
        A(p.A.size(), p.place),
        B(p.B.size(), p.place),
        C(p.C.size(), p.place),
        D(p.D.size(), p.place),
        offset(deformable ? p.offset.size() : 0, p.place),
        weight(deformable ? p.weight.size() : 0, p.place) {}
  ScanGradients pointers() {
    return {x.data(), delta.data(), A.data(), B.data(), C.data(), D.data(), offset.data(), weight.data()};
  }
  Hash own() const { return Hash().add(x).add(delta).add(A).add(D); }
  Hash sums() const { return Hash().add(B).add(C).add(offset).add(weight); }
  double own_error(const ExactGradients& e) const {
    return worst({relative_error(x, e.x), relative_error(delta, e.delta), relative_error(A, e.A), relative_error(D, e.D)});
  }
  double sums_error(const ExactGradients& e) const {
    return worst({relative_error(B, e.B), relative_error(C, e.C), relative_error(offset, e.offset),
                  relative_error(weight, e.weight)});
  }
  bool intact() const {
    for (const Floats* array : {&x, &delta, &A, &B, &C, &D, &offset, &weight})
      if (!array->intact()) return false;
    return true;
  }

  Floats x, delta, A, B, C, D, offset, weight;

 private:
  static double worst(std::initializer_list<double> errors) {
    double most = 0;
    for (double e : errors) most = e <= most ? most : e;
    return most;
  }
};

constexpr double kTolerance = 1e-4;

void check_case(Report& report, const Row& row, const Problem& p, bool deformable, const ExactGradients& exact,
                uint64_t& hash) {
  const std::string name = std::string(p.sizes.name) + (deformable ? "/deformable/" : "/selective/") + "backward";
  const Scan scan = p.scan(deformable, false);
  Gradients one(p, deformable), three(p, deformable), again(p, deformable);
  scan_backward(row, scan, p.grad_y.data(), one.pointers(), 1);
  scan_backward(row, scan, p.grad_y.data(), three.pointers(), 3);
  scan_backward(row, scan, p.grad_y.data(), again.pointers(), 3);
  if (p.place == Place::kEnd) {
    report.line(row, name, one.own_error(exact), kTolerance, one.own());
    report.line(row, name + "/sums", one.sums_error(exact), kTolerance, one.sums());
  } else {
    report.check(one.own().value() == hash, row, name, "alignment changes nothing");
  }
  hash = one.own().value();
  report.check(three.own_error(exact) <= kTolerance && three.sums_error(exact) <= kTolerance, row, name,
               "three threads are as exact");
  report.check(same(one.x, three.x) && same(one.delta, three.delta) && one.sums().value() == three.sums().value(), row,
               name, "threads change nothing but the sums over the batch");
  report.check(same(three.A, again.A) && same(three.D, again.D), row, name, "one thread count has one result");
  report.check(one.intact() && three.intact(), row, name, "nothing is written out of bounds");
}

}  // namespace

void check_backward(Report& report) {
  for (const Case& c : all_cases()) {
    if (!report.wants(c.name)) continue;
    const Problem at_end(c, Place::kEnd), at_offset(c, Place::kOffset);
    for (bool deformable : {false, true}) {
      const ExactGradients exact = exact_backward(at_end.scan(deformable, false), at_end.grad_y.data());
      for_rows([&](const Row& row) {
        uint64_t hash = 0;
        for (const Problem* p : {&at_end, &at_offset}) check_case(report, row, *p, deformable, exact, hash);
      });
    }
  }
}
