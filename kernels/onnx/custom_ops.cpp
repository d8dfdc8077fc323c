// An onnxruntime library with the custom ops SelectiveScan and DeformableScan of the domain "edge_hands".
//
//   SelectiveScan(x, delta, A, B, C, D) -> y                                             float32, shapes as in scan.h
//   DeformableScan(x, offset, weight, delta, A, B, C, D) -> y     attributes height, width, points, whole numbers
//
// A runtime loads it by its path (register_custom_ops_library in Python) and calls RegisterCustomOps. A scan runs on
// the thread that runs its node: a hand's map is too small to gain from more. EDGE_HANDS_ISA in the environment forces
// a row of kernels. Nothing throws beyond this file.
#include <exception>
#include <memory>
#include <mutex>
#include <new>
#include <string>
#include <utility>

#include "abi.h"
#include "edge_hands/rows.h"
#include "edge_hands/shapes.h"

namespace edge_hands::onnx {

namespace {

// An argument: where its shape and its data go.
struct Argument {
  Shape ScanShapes::*shape;
  const float* Scan::*data;
};
constexpr Argument kArguments[] = {
    {&ScanShapes::x, &Scan::x},           {&ScanShapes::offset, &Scan::offset}, {&ScanShapes::weight, &Scan::weight},
    {&ScanShapes::delta, &Scan::delta},   {&ScanShapes::A, &Scan::A},           {&ScanShapes::B, &Scan::B},
    {&ScanShapes::C, &Scan::C},           {&ScanShapes::D, &Scan::D},
};
constexpr size_t kCount = sizeof(kArguments) / sizeof(kArguments[0]);

struct Op : OrtCustomOp {
  const char* name;
  bool deformable;
};

struct Kernel {
  const OrtApi* api;
  const Row* row;
  bool deformable;
  int64_t height = 0, width = 0, points = 0;
};

const Op& op_of(const OrtCustomOp* op) { return *static_cast<const Op*>(op); }

// Runs `body`, which returns a status, and turns what it throws into one.
template <typename Body>
OrtStatus* guarded(const OrtApi& api, Body body) noexcept {
  try {
    return body();
  } catch (const std::bad_alloc&) {
    return api.CreateStatus(kOrtFail, "edge_hands: there is not enough memory.");
  } catch (const std::exception& error) {
    return api.CreateStatus(kOrtFail, error.what());
  } catch (...) {
    return api.CreateStatus(kOrtFail, "edge_hands: failed.");
  }
}

OrtStatus* create(const OrtCustomOp* op, const OrtApi* api, const OrtKernelInfo* info, void** kernel) noexcept {
  return guarded(*api, [&]() -> OrtStatus* {
    auto made = std::make_unique<Kernel>(Kernel{api, &find_row(nullptr), op_of(op).deformable});
    if (made->deformable) {
      const std::pair<const char*, int64_t*> attributes[] = {
          {"height", &made->height}, {"width", &made->width}, {"points", &made->points}};
      for (const auto& [name, value] : attributes)
        if (OrtStatus* status = api->KernelInfoGetAttribute_int64(info, name, value)) return status;
    }
    *kernel = made.release();
    return nullptr;
  });
}

void destroy(void* kernel) noexcept { delete static_cast<Kernel*>(kernel); }

// The shape and the data of an input.
OrtStatus* read(const OrtApi& api, const OrtKernelContext* context, size_t index, Shape& shape, const float*& data) {
  const OrtValue* value = nullptr;
  OrtTensorTypeAndShapeInfo* info = nullptr;
  if (OrtStatus* status = api.KernelContext_GetInput(context, index, &value)) return status;
  if (OrtStatus* status = api.GetTensorTypeAndShape(value, &info)) return status;
  const std::unique_ptr<OrtTensorTypeAndShapeInfo, void (*)(OrtTensorTypeAndShapeInfo*)> owner(
      info, api.ReleaseTensorTypeAndShapeInfo);
  size_t rank = 0;
  if (OrtStatus* status = api.GetDimensionsCount(info, &rank)) return status;
  shape.resize(rank);
  if (OrtStatus* status = api.GetDimensions(info, shape.data(), rank)) return status;
  void* bytes = nullptr;
  if (OrtStatus* status = api.GetTensorMutableData(const_cast<OrtValue*>(value), &bytes)) return status;
  data = static_cast<const float*>(bytes);
  return nullptr;
}

OrtStatus* compute(void* opaque, OrtKernelContext* context) noexcept {
  const auto& kernel = *static_cast<const Kernel*>(opaque);
  const OrtApi& api = *kernel.api;
  return guarded(api, [&]() -> OrtStatus* {
    Scan scan;
    ScanShapes shapes;
    size_t input = 0;
    for (size_t i = 0; i < kCount; ++i) {
      if (!kernel.deformable && (i == 1 || i == 2)) continue;  // the selective scan lacks offset and weight
      const Argument& argument = kArguments[i];
      if (OrtStatus* status = read(api, context, input++, shapes.*argument.shape, scan.*argument.data)) return status;
    }
    const std::string error = size_scan(shapes, kernel.height, kernel.width, kernel.points, scan);
    if (!error.empty()) return api.CreateStatus(kOrtInvalidArgument, error.c_str());
    OrtValue* value = nullptr;
    void* y = nullptr;
    if (OrtStatus* status = api.KernelContext_GetOutput(context, 0, shapes.x.data(), shapes.x.size(), &value))
      return status;
    if (OrtStatus* status = api.GetTensorMutableData(value, &y)) return status;
    ScanOutput output;
    output.y = static_cast<float*>(y);
    scan_forward(*kernel.row, scan, output, 1);
    return nullptr;
  });
}

Op make_op(const char* name, bool deformable) {
  Op op{};
  op.version = kOrtApiVersion;
  op.name = name;
  op.deformable = deformable;
  op.GetName = [](const OrtCustomOp* self) { return op_of(self).name; };
  op.GetExecutionProviderType = [](const OrtCustomOp*) -> const char* { return nullptr; };
  op.GetInputType = [](const OrtCustomOp*, size_t) { return kOrtFloat; };
  op.GetInputTypeCount = [](const OrtCustomOp* self) { return op_of(self).deformable ? kCount : kCount - 2; };
  op.GetOutputType = [](const OrtCustomOp*, size_t) { return kOrtFloat; };
  op.GetOutputTypeCount = [](const OrtCustomOp*) { return size_t(1); };
  op.KernelDestroy = destroy;
  op.GetInputCharacteristic = [](const OrtCustomOp*, size_t) { return kOrtRequired; };
  op.GetOutputCharacteristic = [](const OrtCustomOp*, size_t) { return kOrtRequired; };
  op.GetInputMemoryType = [](const OrtCustomOp*, size_t) { return kOrtMemTypeDefault; };
  op.CreateKernelV2 = create;
  op.KernelComputeV2 = compute;
  return op;
}

// The domain of both ops: made once, and left to the end of the process, as sessions may outlive any other owner.
OrtStatus* find_domain(const OrtApi& api, OrtCustomOpDomain*& found) {
  static const Op ops[] = {make_op("SelectiveScan", false), make_op("DeformableScan", true)};
  static OrtCustomOpDomain* domain = nullptr;
  if (!domain) {
    OrtCustomOpDomain* made = nullptr;
    if (OrtStatus* status = api.CreateCustomOpDomain("edge_hands", &made)) return status;
    for (const Op& op : ops)
      if (OrtStatus* status = api.CustomOpDomain_Add(made, &op)) {
        api.ReleaseCustomOpDomain(made);
        return status;
      }
    domain = made;
  }
  found = domain;
  return nullptr;
}

}  // namespace

}  // namespace edge_hands::onnx

#if defined(_WIN32)
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif

// Called by onnxruntime with the options of a session that may hold our ops.
extern "C" EXPORT OrtStatus* RegisterCustomOps(OrtSessionOptions* options, const OrtApiBase* base) noexcept {
  const OrtApi* api = base->GetApi(kOrtApiVersion);
  if (!api) {  // version 1 is in every onnxruntime: enough to say so
    api = base->GetApi(1);
    return api ? api->CreateStatus(kOrtFail, "edge_hands: needs onnxruntime 1.16 or newer.") : nullptr;
  }
  return edge_hands::onnx::guarded(*api, [&]() -> OrtStatus* {
    static std::mutex mutex;
    const std::lock_guard<std::mutex> lock(mutex);
    OrtCustomOpDomain* domain = nullptr;
    if (OrtStatus* status = edge_hands::onnx::find_domain(*api, domain)) return status;
    return api->AddCustomOpDomain(options, domain);
  });
}
