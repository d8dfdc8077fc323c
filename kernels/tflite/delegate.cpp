// A TensorFlow Lite delegate for the custom ops edge_hands.selective_scan and edge_hands.deformable_scan. A runtime
// loads the library by its path (load_delegate in Python, TfLiteExternalDelegateCreate in C++) and calls
// tflite_plugin_create_delegate; what is not ours stays with the runtime's own kernels and delegates.
//
// Option "threads": threads of one scan, 1 to 256; without it those that the interpreter was given. EDGE_HANDS_ISA in
// the environment forces a row of kernels. Nothing throws beyond this file.
#include <cstdlib>
#include <cstring>
#include <exception>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "abi.h"
#include "edge_hands/rows.h"
#include "scan_node.h"

namespace edge_hands::tflite {

namespace {

constexpr long kMaxThreads = 256;

struct Delegate {
  TfLiteDelegate face{};
  const Row* row = nullptr;
  int threads = 0;  // 0: the interpreter's
};

// The user data of one delegate node: neighbours among our nodes share one.
struct Partition {
  std::vector<ScanNode> nodes;
  OwnTensors own;
};

// Runs `body`, which returns "" or what is wrong, and reports that and whatever it throws.
template <typename Body>
TfLiteStatus guarded(TfLiteContext* context, const char* name, Body body) noexcept {
  try {
    const std::string error = body();
    if (error.empty()) return kTfLiteOk;
    context->ReportError(context, "%s: %s", name, error.c_str());
  } catch (const std::bad_alloc&) {
    context->ReportError(context, "%s: there is not enough memory.", name);
  } catch (const std::exception& error) {
    context->ReportError(context, "%s: %s", name, error.what());
  } catch (...) {
    context->ReportError(context, "%s: failed.", name);
  }
  return kTfLiteError;
}

bool holds(const TfLiteIntArray& indices, int index) {
  for (int i = 0; i < indices.size; ++i)
    if (indices.data[i] == index) return true;
  return false;
}

void* init(TfLiteContext* context, const char* buffer, size_t) noexcept {
  std::unique_ptr<Partition> made;
  const auto* params = reinterpret_cast<const TfLiteDelegateParams*>(buffer);
  const TfLiteStatus status = guarded(context, "edge_hands", [&]() -> std::string {
    made = std::make_unique<Partition>();
    for (int i = 0; i < params->nodes_to_replace->size; ++i) {
      TfLiteNode* node;
      TfLiteRegistration* registration;
      const int index = params->nodes_to_replace->data[i];
      if (context->GetNodeAndRegistration(context, index, &node, &registration) != kTfLiteOk)
        return "the runtime does not give a node that it offered.";
      const ScanNode& ours = made->nodes.emplace_back(*node, *registration);
      if (!holds(*params->output_tensors, ours.output())) made->own[ours.output()];
    }
    return "";
  });
  return status == kTfLiteOk ? made.release() : nullptr;
}

void release(TfLiteContext*, void* partition) noexcept { delete static_cast<Partition*>(partition); }

TfLiteStatus prepare(TfLiteContext* context, TfLiteNode* node) noexcept {
  auto* partition = static_cast<Partition*>(node->user_data);
  if (!partition) return kTfLiteError;  // init has reported why
  for (ScanNode& ours : partition->nodes)
    if (guarded(context, ours.name(), [&] { return ours.prepare(context, partition->own); }) != kTfLiteOk)
      return kTfLiteError;
  return kTfLiteOk;
}

TfLiteStatus invoke(TfLiteContext* context, TfLiteNode* node) noexcept {
  auto* partition = static_cast<Partition*>(node->user_data);
  const auto& delegate = *static_cast<const Delegate*>(node->delegate->data);
  const int given = context->recommended_num_threads > 0 ? context->recommended_num_threads : 1;
  const int threads = delegate.threads ? delegate.threads : given;
  for (const ScanNode& ours : partition->nodes) {
    const auto run = [&] { return ours.run(context, partition->own, *delegate.row, threads); };
    if (guarded(context, ours.name(), run) != kTfLiteOk) return kTfLiteError;
  }
  return kTfLiteOk;
}

// Takes every custom node of ours; wrong ones too, to say what is wrong with them.
TfLiteStatus claim(TfLiteContext* context, TfLiteDelegate* delegate) noexcept {
  return guarded(context, "edge_hands", [&]() -> std::string {
    TfLiteIntArray* plan;
    if (context->GetExecutionPlan(context, &plan) != kTfLiteOk) return "the runtime gives no execution plan.";
    std::vector<int> taken{0};  // a TfLiteIntArray: its size, then the indices
    for (int i = 0; i < plan->size; ++i) {
      TfLiteNode* node;
      TfLiteRegistration* registration;
      if (context->GetNodeAndRegistration(context, plan->data[i], &node, &registration) != kTfLiteOk)
        return "the runtime does not give a node of its plan.";
      if (ScanNode::is_ours(*registration)) taken.push_back(plan->data[i]);
    }
    taken[0] = int(taken.size()) - 1;
    if (!taken[0]) return "";
    TfLiteRegistration kernel{};
    kernel.init = init;
    kernel.free = release;
    kernel.prepare = prepare;
    kernel.invoke = invoke;
    kernel.builtin_code = kTfLiteBuiltinDelegate;
    kernel.custom_name = "edge_hands";
    kernel.version = 1;
    const auto* nodes = reinterpret_cast<const TfLiteIntArray*>(taken.data());
    if (context->ReplaceNodeSubsetsWithDelegateKernels(context, kernel, nodes, delegate) != kTfLiteOk)
      return "the runtime does not hand over the scans.";
    return "";
  });
}

std::string set_option(Delegate& delegate, const std::string& key, const char* value) {
  if (key != "threads") return "unknown option " + key + "; there is threads.";
  char* end = nullptr;
  const long threads = std::strtol(value, &end, 10);
  if (end == value || *end || threads < 1 || threads > kMaxThreads)
    return "threads: expected a whole number from 1 to " + std::to_string(kMaxThreads) + ", found " + value + ".";
  delegate.threads = int(threads);
  return "";
}

}  // namespace

}  // namespace edge_hands::tflite

using edge_hands::tflite::Delegate;

#define EXPORT __attribute__((visibility("default")))

extern "C" {

// A delegate, or null after `report` was told why.
EXPORT TfLiteDelegate* tflite_plugin_create_delegate(const char* const* keys, const char* const* values, size_t count,
                                                     void (*report)(const char*)) noexcept {
  const auto fail = [report](const char* why) -> TfLiteDelegate* {
    if (report) report(why);
    return nullptr;
  };
  try {
    auto made = std::make_unique<Delegate>();
    for (size_t i = 0; i < count; ++i) {
      const std::string error = edge_hands::tflite::set_option(*made, keys[i], values[i]);
      if (!error.empty()) return fail(error.c_str());
    }
    made->row = &edge_hands::find_row(nullptr);
    made->face.data = made.get();
    made->face.Prepare = edge_hands::tflite::claim;
    made->face.flags = kTfLiteDelegateFlagsAllowDynamicTensors;
    return &made.release()->face;
  } catch (const std::exception& error) {
    return fail(error.what());
  } catch (...) {
    return fail("failed");
  }
}

EXPORT void tflite_plugin_destroy_delegate(TfLiteDelegate* delegate) noexcept {
  if (delegate) delete static_cast<Delegate*>(delegate->data);
}

}  // extern "C"
