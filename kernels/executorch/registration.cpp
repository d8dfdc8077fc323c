// The scans as ExecuTorch kernels: edge_hands::selective_scan.out, deformable_scan.out and their _int8 forms, over the
// shared kernels. Loading this library into a process that holds libexecutorch registers them; a second registration
// of a name ends the process, so the loader (__init__.py) asks which names there are first.
//
// Tensors are contiguous, shapes and mathematics those of edge_hands/scan.h. A wrong argument fails the call, and
// edge_hands_error() tells which one, as ExecuTorch's own errors are numbers only.
#include <atomic>
#include <cmath>
#include <cstdint>
#include <exception>
#include <initializer_list>
#include <string>

#include <executorch/extension/kernel_util/make_boxed_from_unboxed_functor.h>
#include <executorch/runtime/core/exec_aten/exec_aten.h>
#include <executorch/runtime/core/exec_aten/util/tensor_util.h>
#include <executorch/runtime/kernel/kernel_runtime_context.h>

#include "edge_hands/rows.h"
#include "edge_hands/scan.h"
#include "edge_hands/shapes.h"

namespace {

using executorch::aten::ScalarType;
using executorch::aten::Tensor;
using executorch::runtime::Error;
using Context = executorch::runtime::KernelRuntimeContext;

thread_local std::string last_error;
std::atomic<int> most_threads{1};

// State updates that take far longer than starting a thread.
constexpr int64_t kUpdatesPerThread = 1 << 20;

struct Inputs {
  const Tensor &x, &delta, &A, &B, &C, &D;
  const Tensor *offset = nullptr, *weight = nullptr;
  int64_t height = 0, width = 0, points = 0;
};

struct Int8 {
  double x_scale;
  int64_t x_zero_point;
  double y_scale;
  int64_t y_zero_point;
};

edge_hands::Shape shape(const Tensor& t) { return {t.sizes().begin(), t.sizes().end()}; }

std::string check_tensor(const char* name, const Tensor& t, ScalarType type) {
  if (t.scalar_type() != type)
    return std::string(name) + ": expected dtype " + executorch::runtime::toString(type) + ", found " +
           executorch::runtime::toString(t.scalar_type()) + ".";
  if (!executorch::runtime::is_contiguous_dim_order(t.dim_order().data(), t.dim_order().size()))
    return std::string(name) + ": expected a contiguous tensor, found another order of dimensions.";
  return "";
}

std::string check_quantization(const char* name, double scale, int64_t zero_point) {
  if (!(scale > 0) || !std::isfinite(static_cast<float>(scale)))
    return std::string(name) + "_scale: expected a positive number, found " + std::to_string(scale) + ".";
  if (zero_point < -128 || zero_point > 127)
    return std::string(name) + "_zero_point: expected -128 to 127, found " + std::to_string(zero_point) + ".";
  return "";
}

// Checks everything and computes; "" or what is wrong. int8 is null for the float32 operators.
std::string run(const Inputs& in, const Int8* int8, Tensor& out) {
  const ScalarType data = int8 ? ScalarType::Char : ScalarType::Float;
  const Tensor &x = in.x, *offset = in.offset, *weight = in.weight;
  for (const std::string& error :
       {check_tensor("x", x, data), check_tensor("delta", in.delta, ScalarType::Float),
        check_tensor("A", in.A, ScalarType::Float), check_tensor("B", in.B, ScalarType::Float),
        check_tensor("C", in.C, ScalarType::Float), check_tensor("D", in.D, ScalarType::Float),
        offset ? check_tensor("offset", *offset, ScalarType::Float) : "",
        weight ? check_tensor("weight", *weight, ScalarType::Float) : "", check_tensor("out", out, data),
        int8 ? check_quantization("x", int8->x_scale, int8->x_zero_point) : "",
        int8 ? check_quantization("y", int8->y_scale, int8->y_zero_point) : ""})
    if (!error.empty()) return error;

  edge_hands::ScanShapes shapes{shape(x), shape(in.delta), shape(in.A), shape(in.B), shape(in.C), shape(in.D), {}, {}};
  if (offset) shapes.offset = shape(*offset), shapes.weight = shape(*weight);
  edge_hands::Scan scan;
  if (offset && in.points < 1) return "points: expected at least 1, found " + std::to_string(in.points) + ".";
  const std::string error = edge_hands::size_scan(shapes, in.height, in.width, in.points, scan);
  if (!error.empty()) return error;
  if (executorch::runtime::resize_tensor(out, x.sizes()) != Error::Ok) return "out: cannot take the shape of x.";

  scan.delta = in.delta.const_data_ptr<float>(), scan.A = in.A.const_data_ptr<float>();
  scan.B = in.B.const_data_ptr<float>(), scan.C = in.C.const_data_ptr<float>(), scan.D = in.D.const_data_ptr<float>();
  if (offset) scan.offset = offset->const_data_ptr<float>(), scan.weight = weight->const_data_ptr<float>();
  edge_hands::ScanOutput output;
  if (int8) {
    scan.x_int8 = x.const_data_ptr<int8_t>(), output.y_int8 = out.mutable_data_ptr<int8_t>();
    scan.x_quantization = {static_cast<float>(int8->x_scale), static_cast<int32_t>(int8->x_zero_point)};
    output.y_quantization = {static_cast<float>(int8->y_scale), static_cast<int32_t>(int8->y_zero_point)};
  } else {
    scan.x = x.const_data_ptr<float>(), output.y = out.mutable_data_ptr<float>();
  }
  const int64_t worth = 1 + scan.batch * scan.length * scan.channels * scan.states / kUpdatesPerThread;
  const int threads = worth < most_threads ? static_cast<int>(worth) : most_threads.load();
  edge_hands::scan_forward(edge_hands::find_row(nullptr), scan, output, threads);
  return "";
}

Tensor& call(Context& ctx, const Inputs& in, const Int8* int8, Tensor& out) {
  try {
    last_error = run(in, int8, out);
  } catch (const std::exception& error) {  // ExecuTorch is built without exceptions: none may leave
    last_error = error.what();
  }
  if (!last_error.empty()) ctx.fail(Error::InvalidArgument);
  return out;
}

Tensor& selective_scan(Context& ctx, const Tensor& x, const Tensor& delta, const Tensor& A, const Tensor& B,
                       const Tensor& C, const Tensor& D, Tensor& out) {
  return call(ctx, {x, delta, A, B, C, D}, nullptr, out);
}

Tensor& deformable_scan(Context& ctx, const Tensor& x, const Tensor& offset, const Tensor& weight, const Tensor& delta,
                        const Tensor& A, const Tensor& B, const Tensor& C, const Tensor& D, int64_t height,
                        int64_t width, int64_t points, Tensor& out) {
  return call(ctx, {x, delta, A, B, C, D, &offset, &weight, height, width, points}, nullptr, out);
}

Tensor& selective_scan_int8(Context& ctx, const Tensor& x, double x_scale, int64_t x_zero_point, const Tensor& delta,
                            const Tensor& A, const Tensor& B, const Tensor& C, const Tensor& D, double y_scale,
                            int64_t y_zero_point, Tensor& out) {
  const Int8 int8{x_scale, x_zero_point, y_scale, y_zero_point};
  return call(ctx, {x, delta, A, B, C, D}, &int8, out);
}

Tensor& deformable_scan_int8(Context& ctx, const Tensor& x, double x_scale, int64_t x_zero_point, const Tensor& offset,
                             const Tensor& weight, const Tensor& delta, const Tensor& A, const Tensor& B,
                             const Tensor& C, const Tensor& D, int64_t height, int64_t width, int64_t points,
                             double y_scale, int64_t y_zero_point, Tensor& out) {
  const Int8 int8{x_scale, x_zero_point, y_scale, y_zero_point};
  return call(ctx, {x, delta, A, B, C, D, &offset, &weight, height, width, points}, &int8, out);
}

EXECUTORCH_LIBRARY(edge_hands, "selective_scan.out", selective_scan);
EXECUTORCH_LIBRARY(edge_hands, "deformable_scan.out", deformable_scan);
EXECUTORCH_LIBRARY(edge_hands, "selective_scan_int8.out", selective_scan_int8);
EXECUTORCH_LIBRARY(edge_hands, "deformable_scan_int8.out", deformable_scan_int8);

}  // namespace

// What was wrong with the last scan of this thread, "" if nothing was; valid until its next scan.
extern "C" __attribute__((visibility("default"))) const char* edge_hands_error() { return last_error.c_str(); }

// How many threads a scan may take, in the whole process; it takes fewer when there is too little to do.
extern "C" __attribute__((visibility("default"))) void edge_hands_threads(int threads) { most_threads = threads; }
