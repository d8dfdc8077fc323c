// The nodes of one delegate node as a list of steps, fused as far as the kernels go: a layer with the padding before it,
// and with the sum or product and the quantisation behind it.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "edge_hands/layers.h"
#include "edge_hands/rows.h"
#include "graph.h"
#include "scan_node.h"

namespace edge_hands::tflite {

// 64-byte aligned, zeroed, with some bytes behind the end that may be read.
class Memory {
 public:
  // `often` asks for large pages, for what is read all through every run.
  explicit Memory(size_t bytes, bool often = false);
  void* get() const { return data_.get(); }

 private:
  struct Free {
    void operator()(void* p) const;
  };
  std::unique_ptr<void, Free> data_;
};

class Program {
 public:
  // For nodes that ``claimed_nodes`` took; `outputs` are the tensors that others read. Throws std::runtime_error for nodes
  // that do not fit together.
  Program(TfLiteContext* context, const Graph& graph, const TfLiteIntArray& outputs, const std::vector<ScanNode>& scans,
          const Row& row);

  // "" or why the tensors are no longer those that it was made for.
  std::string check(const TfLiteContext* context) const;

  std::string run(TfLiteContext* context);

 private:
  friend class Builder;

  float* floats(int tensor) const { return static_cast<float*>(places_[size_t(tensor)]); }

  Places places_;
  std::vector<std::unique_ptr<Memory>> memory_;
  std::unique_ptr<Memory> scratch_;               // of whichever convolution runs
  std::vector<Ahead> ahead_;                      // of each convolution, in their order
  std::vector<int> boundary_;                     // float32 tensors in the runtime's memory
  std::vector<std::pair<int, size_t>> elements_;  // of all tensors that cross the border
  std::vector<std::function<std::string(TfLiteContext*)>> steps_;
};

}  // namespace edge_hands::tflite
