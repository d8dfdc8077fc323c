// The nodes of a model, copied from the runtime, and who makes and reads which tensor.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "abi.h"

namespace edge_hands::tflite {

// TFLite's numbers of the operators that we know.
enum Code {
  kAdd = 0,
  kConv = 3,
  kFullyConnected = 9,
  kDepthwise = 4,
  kDequantize = 6,
  kMul = 18,
  kReshape = 22,
  kSoftmax = 25,
  kCustom = 32,
  kPad = 34,
  kTranspose = 39,
  kMean = 40,
  kSub = 41,
  kDiv = 42,
  kSlice = 65,
  kSum = 74,
  kSqrt = 75,
  kRsqrt = 76,
  kResizeNearest = 97,
  kQuantize = 114,
};

struct Node {
  int index = -1;  // the runtime's
  int code = -1;
  bool scan = false;
  std::vector<int> inputs, outputs;
  float beta = 1.0f;  // of a softmax
  ConvParams conv{};  // of a convolution, or what else begins like it: `activation` is the one of any operator
};

// Tensors by their index; a tensor that nobody makes is an input or a constant.
class Graph {
 public:
  // Throws std::runtime_error when the runtime does not give a node.
  Graph(TfLiteContext* context, const TfLiteIntArray& indices);

  const std::vector<Node>& nodes() const { return nodes_; }
  const TfLiteTensor& tensor(int index) const { return context_->tensors[index]; }
  const Node* maker(int tensor) const { return maker_[size_t(tensor)] < 0 ? nullptr : &nodes_[size_t(maker_[size_t(tensor)])]; }
  // Positions in nodes().
  const std::vector<int>& readers(int tensor) const { return readers_[size_t(tensor)]; }
  // The one reader of a tensor, or null.
  const Node* reader(int tensor) const {
    return readers(tensor).size() == 1 ? &nodes_[size_t(readers(tensor)[0])] : nullptr;
  }
  int position(const Node& node) const { return int(&node - nodes_.data()); }

 private:
  TfLiteContext* context_;
  std::vector<Node> nodes_;
  std::vector<int> maker_;
  std::vector<std::vector<int>> readers_;
};

// Of tensors. A batch of more than 1 image is none of ours.
bool is_constant(const TfLiteTensor& tensor);
bool same_shape(const TfLiteTensor& a, const TfLiteTensor& b);
size_t elements(const TfLiteTensor& tensor);
// int8 with one scale and zero point.
bool is_int8(const TfLiteTensor& tensor);
bool is_float(const TfLiteTensor& tensor);
// (1, H, W, C), or (1, L, C) with H = 1.
struct Image {
  int height = 0, width = 0, channels = 0;
  explicit operator bool() const { return channels > 0; }
  bool operator==(const Image& o) const { return height == o.height && width == o.width && channels == o.channels; }
};
Image image_of(const TfLiteTensor& tensor);
// The values of an int32 constant; empty if it is none.
std::vector<int> constant_ints(const TfLiteTensor& tensor);
// A constant, float32, int32 or int8, whose memory is as large as its shape says.
bool is_whole(const TfLiteTensor& tensor);
// A float32 constant of one value.
bool is_scalar(const TfLiteTensor& tensor);

// x scaled to a root mean square of 1 over the last axis: slice, square, mean, add, reshape, rsqrt, product; or, in portable
// forms, slice, square, mean as a 1 x 1 convolution, square root, a step of Heron's on it, quotient, product.
struct UnitRms {
  int x = -1;  // before the slice: (..., width)
  int first = 0, count = 0, width = 0;
  float each = 0.0f;  // weight of a square in the convolution; 0 for the first kind
  float epsilon = 0.0f;
  int y = -1;
  std::vector<int> nodes;  // positions of all
  explicit operator bool() const { return y >= 0; }
};
// The one whose inverse root this node, an rsqrt or a quotient, makes.
UnitRms unit_rms_at(const Graph& graph, const Node& inverse);

// The decode of heat-maps: slices of maps (1, H, W, C), each transposed and reshaped to (1, joints, pixels); a softmax
// of one, its products with a grid (2, pixels) and, summed, with others.
struct Decode {
  int maps = -1, heat = 0, joints = 0, pixels = 0, channels = 0;
  int grid = -1, positions = -1;
  std::vector<std::pair<int, int>> sums;  // where a map begins among the channels, and the tensor of its means
  std::vector<int> nodes;                 // positions of all
  explicit operator bool() const { return positions >= 0; }
};
// The one that this node, a softmax, is part of.
Decode decode_at(const Graph& graph, const Node& softmax);

}  // namespace edge_hands::tflite
