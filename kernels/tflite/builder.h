// Builds a Program from the nodes of a graph, in their order.
//
// An int8 tensor is a map with a border as wide as its readers pad. Tensors that only show another's values (reshaped,
// padded, transposed there and back) are that one's. A dequantised tensor is read from its bytes; its float32 values
// are made once something needs them. A layer whose one reader is a sum or product waits for it, and so becomes its part.
#pragma once

#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "claims.h"
#include "program.h"

namespace edge_hands::tflite {

// The zero point of bytes, which are int8 plus 128.
inline int32_t byte_zero(const TfLiteTensor& tensor) { return tensor.params.zero_point + 128; }

class Builder {
 public:
  Builder(Program& program, const Graph& graph, const TfLiteIntArray& outputs, const std::vector<ScanNode>& scans,
          const Row& row);

  void build();

 private:
  // An int8 tensor; `zero` is that of bytes.
  struct Map {
    Bytes bytes;
    float scale = 1.0f;
    int32_t zero = 0;
    bool made = false;  // by a step
  };
  // Values that a step reads: as an operand, and the tensor whose float32 values are put into it when it runs, or -1.
  struct Read {
    Operand operand;
    int floats = -1;
  };
  struct Written {
    Target target;
    int floats = -1;
  };

  const TfLiteTensor& tensor(int index) const { return graph_.tensor(index); }
  int root(int tensor) const;
  bool leaves(int tensor) const { return outputs_.count(tensor) > 0; }
  void* memory(size_t bytes);
  void* weights(size_t bytes);
  size_t weight_bytes() const;
  Convolution shape_of(const Node& node) const;
  void look_ahead();
  template <class Fn>
  void step(Fn fn);

  void find_patterns();
  void find_aliases();
  void find_borders();
  int padding(const Node& convolution) const;
  void add_inputs();
  void add_node(const Node& node);
  void add_outputs();

  Map& map(int tensor);
  Map& made(int tensor);
  void place(int tensor);
  int floats(int tensor);
  const float* padded_floats(const Node& convolution);
  Read read(int tensor);
  Written write(int tensor);
  const Node* dequantize_of(int tensor) const;
  bool waits(const Node& layer) const;
  void copy_in(int tensor);
  void copy_out(int tensor);

  void add_convolution(const Node& node, Finish finish, int other, int values);
  void add_plain(const Node& node);
  void add_depthwise(const Node& node);
  void add_float_convolution(const Node& node);
  void add_pair(const Node& node);
  void add_quantize(const Node& node);
  void add_combine(const Read& value, const Image& shape, Finish finish, int other, int values);
  void add_unit_rms(const UnitRms& rms);
  void add_decode(const Decode& decode);
  void add_doubling(const Node& node);
  void add_scan();
  const float* rescales(const Node& node, int channels);

  Program& program_;
  const Graph& graph_;
  const std::vector<ScanNode>& scans_;
  const Row& row_;
  const LayerKernels& kernels_;
  size_t next_scan_ = 0;
  char *weights_ = nullptr, *next_weight_ = nullptr;  // all layers', in the order of the steps
  size_t weights_left_ = 0, scratch_bytes_ = 0;
  std::vector<std::pair<const char*, double>> work_;  // of each convolution: where its weights are, and its products
  std::unordered_set<int> outputs_, float_made_;
  std::unordered_map<int, int> alias_, padding_, border_;  // padding: of the tensors that padding operators make
  std::unordered_map<int, Map> maps_;
  std::unordered_map<int, const Node*> waiting_;  // layers, by their output
  std::unordered_set<int> done_;                  // positions of nodes that became part of another's step
};

}  // namespace edge_hands::tflite
