// One custom op of a model: which tensors it reads and writes, and the scan it makes of them.
//
//   edge_hands.selective_scan    x, delta, A, B, C, D                  -> y
//   edge_hands.deformable_scan   x, offset, weight, delta, A, B, C, D  -> y
//
// Shapes are those of edge_hands/scan.h. All are float32; x and y may each be int8 with one scale and zero point, which
// are the tensors' own. Functions return "" or a sentence that names the argument and what is wrong with it.
#pragma once

#include <string>
#include <vector>

#include "abi.h"
#include "edge_hands/rows.h"
#include "edge_hands/scan.h"

namespace edge_hands::tflite {

// Where the data of tensors is whose memory is ours, by their index; null: where the runtime says.
using Places = std::vector<void*>;

class ScanNode {
 public:
  // Whether a node of this registration is one of our ops.
  static bool is_ours(const TfLiteRegistration& registration);

  ScanNode(const TfLiteNode& node, const TfLiteRegistration& registration);

  const char* name() const;
  int output() const { return output_; }

  const std::vector<int>& inputs() const { return inputs_; }

  // Checks options, types and shapes, and gives the output its shape. Called again after the inputs have been resized.
  std::string prepare(TfLiteContext* context);

  // The size of the output, once prepared.
  size_t output_bytes() const { return output_bytes_; }

  std::string run(TfLiteContext* context, const Places& places, const Row& row, int threads) const;

 private:
  bool deformable_;
  std::vector<int> inputs_;
  int output_ = -1;
  size_t outputs_, output_bytes_ = 0;
  std::vector<char> options_;
  Scan scan_;  // sizes and quantisation; pointers are set for each run
  ScanOutput scan_output_;
};

}  // namespace edge_hands::tflite
