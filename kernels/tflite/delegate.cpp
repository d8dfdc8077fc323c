// A TensorFlow Lite delegate for the custom ops edge_hands.selective_scan and edge_hands.deformable_scan, and for int8
// layers around them. A runtime
// loads the library by its path (load_delegate in Python, TfLiteExternalDelegateCreate in C++) and calls
// tflite_plugin_create_delegate; what is not ours stays with the runtime's own kernels and delegates.
//
// Option "threads": threads of one scan, 1 to 256; without it those that the interpreter was given. Option "layers": 1
// takes the int8 layers of a model too, 0 leaves them to the runtime; without it they are taken where this CPU has fast
// kernels for them (edge_hands/layers.h) and one thread is asked for. EDGE_HANDS_ISA in the environment forces a row of
// kernels. Nothing throws beyond this file.
#include <cstdlib>
#include <cstring>
#include <exception>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "abi.h"
#include "claims.h"
#include "edge_hands/rows.h"
#include "program.h"
#include "scan_node.h"

namespace edge_hands::tflite {

namespace {

constexpr long kMaxThreads = 256;

struct Delegate {
  TfLiteDelegate face{};
  const Row* row = nullptr;
  int threads = 0;  // 0: the interpreter's
  int layers = -1;  // whether int8 layers are taken; -1: where the row has fast ones, and one thread is to run them
};

// The user data of one delegate node: neighbours among our nodes share one.
struct Partition {
  std::vector<ScanNode> scans;
  std::unique_ptr<Program> program;  // null for scans alone
  Places places;                     // of what lies between scans alone
  std::vector<std::unique_ptr<Memory>> memory;
};

int thread_count(const TfLiteContext* context, const Delegate& delegate) {
  const int given = context->recommended_num_threads > 0 ? context->recommended_num_threads : 1;
  return delegate.threads ? delegate.threads : given;
}

bool takes_layers(const TfLiteContext* context, const Delegate& delegate) {
  if (delegate.layers == 0 || !delegate.row->layers()) return false;
  return delegate.layers == 1 || (delegate.row->lanes > 1 && thread_count(context, delegate) == 1);
}

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
    const Graph graph(context, *params->nodes_to_replace);
    for (int i = 0; i < params->nodes_to_replace->size; ++i) {
      if (!graph.nodes()[size_t(i)].scan) continue;
      TfLiteNode* node;
      TfLiteRegistration* registration;
      if (context->GetNodeAndRegistration(context, params->nodes_to_replace->data[i], &node, &registration) != kTfLiteOk)
        return "the runtime does not give a node that it offered.";
      made->scans.emplace_back(*node, *registration);
    }
    if (made->scans.size() < graph.nodes().size()) {
      const auto& delegate = *static_cast<const Delegate*>(params->delegate->data);
      made->program = std::make_unique<Program>(context, graph, *params->output_tensors, made->scans, *delegate.row);
      return "";
    }
    made->places.assign(context->tensors_size, nullptr);
    for (const ScanNode& scan : made->scans)
      made->memory.push_back(holds(*params->output_tensors, scan.output()) ? nullptr : std::make_unique<Memory>(0));
    return "";
  });
  return status == kTfLiteOk ? made.release() : nullptr;
}

void release(TfLiteContext*, void* partition) noexcept { delete static_cast<Partition*>(partition); }

TfLiteStatus prepare(TfLiteContext* context, TfLiteNode* node) noexcept {
  auto* partition = static_cast<Partition*>(node->user_data);
  if (!partition) return kTfLiteError;  // init has reported why
  for (size_t i = 0; i < partition->scans.size(); ++i) {
    ScanNode& scan = partition->scans[i];
    const TfLiteStatus status = guarded(context, scan.name(), [&] {
      const std::string error = scan.prepare(context);
      if (error.empty() && !partition->program && partition->memory[i]) {
        partition->memory[i] = std::make_unique<Memory>(scan.output_bytes());
        partition->places[size_t(scan.output())] = partition->memory[i]->get();
      }
      return error;
    });
    if (status != kTfLiteOk) return status;
  }
  if (!partition->program) return kTfLiteOk;
  return guarded(context, "edge_hands", [&] { return partition->program->check(context); });
}

TfLiteStatus invoke(TfLiteContext* context, TfLiteNode* node) noexcept {
  auto* partition = static_cast<Partition*>(node->user_data);
  const auto& delegate = *static_cast<const Delegate*>(node->delegate->data);
  if (partition->program) return guarded(context, "edge_hands", [&] { return partition->program->run(context); });
  const int threads = thread_count(context, delegate);
  for (const ScanNode& scan : partition->scans) {
    const auto run = [&] { return scan.run(context, partition->places, *delegate.row, threads); };
    if (guarded(context, scan.name(), run) != kTfLiteOk) return kTfLiteError;
  }
  return kTfLiteOk;
}

// Takes every custom node of ours; wrong ones too, to say what is wrong with them.
TfLiteStatus claim(TfLiteContext* context, TfLiteDelegate* delegate) noexcept {
  return guarded(context, "edge_hands", [&]() -> std::string {
    TfLiteIntArray* plan;
    if (context->GetExecutionPlan(context, &plan) != kTfLiteOk) return "the runtime gives no execution plan.";
    const Graph graph(context, *plan);
    const auto wanted = claimed_nodes(graph, takes_layers(context, *static_cast<const Delegate*>(delegate->data)));
    std::vector<int> taken{0};  // a TfLiteIntArray: its size, then the indices
    for (size_t i = 0; i < wanted.size(); ++i)
      if (wanted[i]) taken.push_back(graph.nodes()[i].index);
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
  if (key == "layers") {
    if (std::strcmp(value, "0") && std::strcmp(value, "1")) return std::string("layers: expected 0 or 1, found ") + value + ".";
    delegate.layers = value[0] - '0';
    return "";
  }
  if (key != "threads") return "unknown option " + key + "; there is threads, and layers.";
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
