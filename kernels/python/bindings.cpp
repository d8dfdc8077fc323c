// edge_hands.kernels._native: the kernels on arrays, without the GIL. Shapes are the Python side's to check
// (checks.py); nanobind checks dtype, device and layout.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "edge_hands/rows.h"
#include "edge_hands/scan.h"

namespace nb = nanobind;
using namespace edge_hands;

using Array = nb::ndarray<nb::c_contig, nb::device::cpu>;
using In = nb::ndarray<const float, nb::c_contig, nb::device::cpu>;
using Out = nb::ndarray<float, nb::c_contig, nb::device::cpu>;

// Points of a group, and the image they are taken from; only the deformable scan has them.
struct Deform {
  std::optional<In> offset, weight;
  int64_t height, width, points;
};

// x apart from its type.
static Scan make_scan(const In& delta, const In& A, const In& B, const In& C, const In& D, const Deform& deform) {
  Scan s;
  s.batch = int64_t(delta.shape(0)), s.length = int64_t(delta.shape(1)), s.channels = int64_t(delta.shape(2));
  s.states = int64_t(A.shape(1));
  s.delta = delta.data(), s.A = A.data(), s.B = B.data(), s.C = C.data(), s.D = D.data();
  if (deform.weight) {
    s.height = deform.height, s.width = deform.width, s.points = deform.points;
    s.groups = int64_t(deform.weight->shape(2)) / s.points;
    s.offset = deform.offset->data(), s.weight = deform.weight->data();
  }
  return s;
}

// (scale, zero_point); read for int8 arrays only.
using Pair = std::pair<float, int32_t>;

static void forward(const std::string& isa, const Array& x, const Pair& x_quantization, std::optional<In> offset,
                    std::optional<In> weight, const In& delta, const In& A, const In& B, const In& C, const In& D,
                    int64_t height, int64_t width, int64_t points, std::optional<In> state, const Array& y,
                    const Pair& y_quantization, std::optional<Out> final_state, int threads) {
  const Row& row = find_row(isa.c_str());
  Scan scan = make_scan(delta, A, B, C, D, {offset, weight, height, width, points});
  ScanOutput output;
  if (x.dtype() == nb::dtype<int8_t>())
    scan.x_int8 = static_cast<const int8_t*>(x.data());
  else
    scan.x = static_cast<const float*>(x.data());
  if (y.dtype() == nb::dtype<int8_t>())
    output.y_int8 = static_cast<int8_t*>(y.data());
  else
    output.y = static_cast<float*>(y.data());
  scan.x_quantization = {x_quantization.first, x_quantization.second};
  output.y_quantization = {y_quantization.first, y_quantization.second};
  if (state) scan.state = state->data();
  if (final_state) output.state = final_state->data();
  nb::gil_scoped_release unlocked;
  scan_forward(row, scan, output, threads);
}

static void backward(const std::string& isa, const In& grad_y, const In& x, std::optional<In> offset,
                     std::optional<In> weight, const In& delta, const In& A, const In& B, const In& C, const In& D,
                     int64_t height, int64_t width, int64_t points, const std::vector<Out>& gradients, int threads) {
  const Row& row = find_row(isa.c_str());
  Scan scan = make_scan(delta, A, B, C, D, {offset, weight, height, width, points});
  scan.x = x.data();
  ScanGradients g;
  size_t next = 0;
  const auto take = [&] { return gradients.at(next++).data(); };
  g.x = take();
  if (weight) g.offset = take(), g.weight = take();
  g.delta = take(), g.A = take(), g.B = take(), g.C = take(), g.D = take();
  nb::gil_scoped_release unlocked;
  scan_backward(row, scan, grad_y.data(), g, threads);
}

static std::vector<std::string> rows() {
  std::vector<std::string> names;
  const Rows all = all_rows();
  for (size_t i = 0; i < all.count; ++i)
    if (all.first[i]->supported()) names.emplace_back(all.first[i]->name);
  return names;
}

static void elementwise(const std::string& isa, const std::string& function, const In& in, const Out& out) {
  const Row& row = find_row(isa.c_str());
  const auto apply = function == "exp2" ? row.exp2 : function == "softplus" ? row.softplus : row.sigmoid;
  apply(in.data(), out.data(), int64_t(in.size()));
}

NB_MODULE(_native, m) {
  m.doc() = "Native scans; use edge_hands.kernels, which checks its arguments.";
  m.def("rows", rows, "Names of the rows this CPU runs, slowest first.");
  m.def("isa", [] { return std::string(find_row(nullptr).name); }, "Name of the chosen row.");
  m.def("forward", forward, nb::arg("isa"), nb::arg("x"), nb::arg("x_quantization"), nb::arg("offset").none(),
        nb::arg("weight").none(), nb::arg("delta"), nb::arg("A"), nb::arg("B"), nb::arg("C"), nb::arg("D"),
        nb::arg("height"), nb::arg("width"), nb::arg("points"), nb::arg("state").none(), nb::arg("y"),
        nb::arg("y_quantization"), nb::arg("final_state").none(), nb::arg("threads"));
  m.def("backward", backward, nb::arg("isa"), nb::arg("grad_y"), nb::arg("x"), nb::arg("offset").none(),
        nb::arg("weight").none(), nb::arg("delta"), nb::arg("A"), nb::arg("B"), nb::arg("C"), nb::arg("D"),
        nb::arg("height"), nb::arg("width"), nb::arg("points"), nb::arg("gradients"), nb::arg("threads"));
  m.def("elementwise", elementwise, nb::arg("isa"), nb::arg("function"), nb::arg("input"), nb::arg("output"),
        "A row's exp2, softplus or sigmoid, for its accuracy tests.");
}
