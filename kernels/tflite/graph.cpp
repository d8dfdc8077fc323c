#include "graph.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "edge_hands/layers.h"
#include "scan_node.h"

namespace edge_hands::tflite {

namespace {

constexpr int kMmapRo = 1;  // TfLiteAllocationType of what lies in the file
// Larger images are not ours: no network has them, and damaged files do.
constexpr int64_t kLargestSide = 1 << 16, kLargestImage = 1 << 28;

// Whether a node has the inputs that its operator must have; an optional one that is left out makes it none of ours.
bool has_inputs(const Node& node) {
  for (size_t i = 0; i < node.inputs.size(); ++i)
    if (node.inputs[i] < 0 && !(node.code == kFullyConnected && i == 2)) return false;
  const bool one = node.code == kDequantize || node.code == kQuantize || node.code == kReshape || node.code == kRsqrt ||
                   node.code == kSqrt || node.code == kSoftmax;
  const bool three = node.code == kConv || node.code == kDepthwise;
  return !node.outputs.empty() && node.outputs[0] >= 0 && node.inputs.size() >= (one ? 1u : three ? 3u : 2u);
}

}  // namespace

Graph::Graph(TfLiteContext* context, const TfLiteIntArray& indices)
    : context_(context), maker_(context->tensors_size, -1), readers_(context->tensors_size) {
  for (int i = 0; i < indices.size; ++i) {
    TfLiteNode* node;
    TfLiteRegistration* registration;
    if (context->GetNodeAndRegistration(context, indices.data[i], &node, &registration) != kTfLiteOk)
      throw std::runtime_error("the runtime does not give a node of its plan.");
    Node made;
    made.index = indices.data[i];
    made.code = registration->builtin_code;
    made.scan = ScanNode::is_ours(*registration);
    made.inputs.assign(node->inputs->data, node->inputs->data + node->inputs->size);
    made.outputs.assign(node->outputs->data, node->outputs->data + node->outputs->size);
    if (node->builtin_data) {
      if (made.code == kConv) std::memcpy(&made.conv, node->builtin_data, sizeof(ConvParams));
      if (made.code == kDepthwise) {
        DepthwiseParams params;
        std::memcpy(&params, node->builtin_data, sizeof(params));
        made.conv = {params.padding, params.stride_width, params.stride_height, params.activation,
                     params.dilation_width, params.dilation_height};
      }
      if (made.code == kSoftmax) std::memcpy(&made.beta, node->builtin_data, sizeof(float));
      if (made.code == kFullyConnected || made.code == kAdd || made.code == kMul || made.code == kSub || made.code == kDiv)
        std::memcpy(&made.conv.activation, node->builtin_data, sizeof(int));
      if (made.code == kResizeNearest) std::memcpy(&made.conv.activation, node->builtin_data, 1);  // align_corners
    }
    if (!made.scan && !has_inputs(made)) made.code = -1;
    const int position = int(nodes_.size());
    for (const int t : made.outputs)
      if (t >= 0) maker_[size_t(t)] = position;
    for (const int t : made.inputs)
      if (t >= 0 && (readers_[size_t(t)].empty() || readers_[size_t(t)].back() != position))
        readers_[size_t(t)].push_back(position);
    nodes_.push_back(std::move(made));
  }
}

bool is_constant(const TfLiteTensor& tensor) { return tensor.allocation_type == kMmapRo && tensor.data; }

bool same_shape(const TfLiteTensor& a, const TfLiteTensor& b) {
  return a.dims && b.dims && a.dims->size == b.dims->size &&
         !std::memcmp(a.dims->data, b.dims->data, sizeof(int) * size_t(a.dims->size));
}

size_t elements(const TfLiteTensor& tensor) {
  size_t count = 1;
  for (int i = 0; i < tensor.dims->size; ++i) count *= size_t(tensor.dims->data[i]);
  return count;
}

bool is_int8(const TfLiteTensor& tensor) {
  return tensor.type == kTfLiteInt8 && tensor.params.scale > 0.0f && tensor.params.zero_point >= -128 &&
         tensor.params.zero_point <= 127;
}

bool is_float(const TfLiteTensor& tensor) { return tensor.type == kTfLiteFloat32; }

Image image_of(const TfLiteTensor& tensor) {
  if (!tensor.dims || tensor.dims->size < 3 || tensor.dims->size > 4) return {};
  const int* d = tensor.dims->data;
  int64_t size = 1;
  for (int i = 0; i < tensor.dims->size; ++i) {
    if (d[i] < 1 || d[i] > kLargestSide || (size *= d[i]) > kLargestImage) return {};
  }
  if (d[0] != 1) return {};
  return tensor.dims->size == 4 ? Image{d[1], d[2], d[3]} : Image{1, d[1], d[2]};
}

std::vector<int> constant_ints(const TfLiteTensor& tensor) {
  if (!is_constant(tensor) || tensor.type != kTfLiteInt32 || tensor.bytes % sizeof(int32_t)) return {};
  const auto* values = static_cast<const int32_t*>(tensor.data);
  return {values, values + tensor.bytes / sizeof(int32_t)};
}

bool is_whole(const TfLiteTensor& tensor) {
  const size_t each = tensor.type == kTfLiteInt8 ? 1 : 4;
  if (!is_constant(tensor) || !tensor.dims) return false;
  size_t count = 1;
  for (int i = 0; i < tensor.dims->size; ++i) {
    if (tensor.dims->data[i] < 1 || count > size_t(kLargestImage)) return false;
    count *= size_t(tensor.dims->data[i]);
  }
  return count <= size_t(kLargestImage) && tensor.bytes == count * each;
}

bool is_scalar(const TfLiteTensor& tensor) {
  return is_constant(tensor) && is_float(tensor) && tensor.bytes == sizeof(float);
}

namespace {

const Node* made_by(const Graph& graph, int tensor, int code) {
  const Node* node = graph.maker(tensor);
  return node && node->code == code && !node->conv.activation ? node : nullptr;
}

bool is_filled_with(const TfLiteTensor& tensor, float value) {
  if (!is_whole(tensor) || !is_float(tensor)) return false;
  const auto* values = static_cast<const float*>(tensor.data);
  return std::all_of(values, values + tensor.bytes / sizeof(float), [&](float v) { return v == value; });
}

// The nodes that make an inverse root, from the mean of squares on.
struct Root {
  const Node* mean = nullptr;
  std::vector<const Node*> between;  // that node and the inverse
  float each = 0.0f, epsilon = 0.0f;
};

Root plain_root(const Graph& graph, const Node& rsqrt) {
  const Node* reshape = made_by(graph, rsqrt.inputs[0], kReshape);
  const Node* add = reshape ? made_by(graph, reshape->inputs[0], kAdd) : nullptr;
  if (!add || !is_scalar(graph.tensor(add->inputs[1]))) return {};
  const Node* mean = made_by(graph, add->inputs[0], kMean);
  if (!mean || !graph.reader(add->outputs[0]) || !graph.reader(reshape->outputs[0])) return {};
  const TfLiteTensor& squares = graph.tensor(mean->inputs[0]);
  const std::vector<int> axes = constant_ints(graph.tensor(mean->inputs[1]));
  if (!squares.dims || axes.size() != 1 || (axes[0] != squares.dims->size - 1 && axes[0] != -1)) return {};
  return {mean, {add, reshape}, 0.0f, *static_cast<const float*>(graph.tensor(add->inputs[1]).data)};
}

// 1 / ((r + m / r) / 2) with r = sqrt(m).
Root refined_root(const Graph& graph, const Node& inverse) {
  if (inverse.conv.activation || !is_filled_with(graph.tensor(inverse.inputs[0]), 1.0f)) return {};
  const Node* half = made_by(graph, inverse.inputs[1], kMul);
  if (!half || !is_scalar(graph.tensor(half->inputs[1])) || !is_filled_with(graph.tensor(half->inputs[1]), 0.5f)) return {};
  const Node* sum = made_by(graph, half->inputs[0], kAdd);
  const Node* root = sum ? made_by(graph, sum->inputs[0], kSqrt) : nullptr;
  const Node* quotient = root ? made_by(graph, sum->inputs[1], kDiv) : nullptr;
  if (!quotient || quotient->inputs[0] != root->inputs[0] || quotient->inputs[1] != root->outputs[0]) return {};
  const Node* mean = made_by(graph, root->inputs[0], kConv);
  if (!mean || graph.readers(root->inputs[0]).size() != 2 || graph.readers(root->outputs[0]).size() != 2) return {};
  for (const Node* node : {half, sum, quotient})
    if (!graph.reader(node->outputs[0])) return {};
  const TfLiteTensor &weight = graph.tensor(mean->inputs[1]), &bias = graph.tensor(mean->inputs[2]);
  const Image squares = image_of(graph.tensor(mean->inputs[0]));
  if (!is_whole(weight) || !is_float(weight) || !is_scalar(bias) || weight.bytes != size_t(squares.channels) * 4) return {};
  const float each = *static_cast<const float*>(weight.data);
  if (each == 0.0f || !is_filled_with(weight, each) || mean->conv.stride_height != 1 || mean->conv.stride_width != 1) return {};
  const Image means = image_of(graph.tensor(mean->outputs[0]));
  if (!(means == Image{squares.height, squares.width, 1}) || !same_shape(graph.tensor(inverse.outputs[0]), graph.tensor(mean->outputs[0])))
    return {};
  return {mean, {root, quotient, sum, half}, each, *static_cast<const float*>(bias.data)};
}

}  // namespace

UnitRms unit_rms_at(const Graph& graph, const Node& inverse) {
  const Root root = inverse.code == kRsqrt ? plain_root(graph, inverse) : refined_root(graph, inverse);
  const Node* square = root.mean ? made_by(graph, root.mean->inputs[0], kMul) : nullptr;
  if (!square || square->inputs[0] != square->inputs[1]) return {};
  const Node* slice = made_by(graph, square->inputs[0], kSlice);
  const Node* product = graph.reader(inverse.outputs[0]);
  if (!slice || !product || product->code != kMul || product->conv.activation || product->inputs[0] != slice->outputs[0])
    return {};
  if (!graph.reader(square->outputs[0]) || graph.readers(slice->outputs[0]).size() != 2) return {};
  if (inverse.code == kRsqrt && !graph.reader(root.mean->outputs[0])) return {};

  const TfLiteTensor &x = graph.tensor(slice->inputs[0]), &part = graph.tensor(slice->outputs[0]);
  const std::vector<int> begin = constant_ints(graph.tensor(slice->inputs[1]));
  if (!is_float(x) || !is_float(part) || !image_of(x) || !image_of(part) || x.dims->size != part.dims->size) return {};
  const int last = x.dims->size - 1;
  if (int(begin.size()) != last + 1) return {};
  for (int i = 0; i < last; ++i)
    if (begin[size_t(i)] || x.dims->data[i] != part.dims->data[i]) return {};
  UnitRms found;
  found.x = slice->inputs[0], found.y = product->outputs[0];
  found.first = begin[size_t(last)], found.count = part.dims->data[last], found.width = x.dims->data[last];
  if (found.first < 0 || found.first + found.count > found.width) return {};
  if (!same_shape(part, graph.tensor(found.y)) || !is_float(graph.tensor(found.y))) return {};
  found.each = root.each, found.epsilon = root.epsilon;
  for (const Node* node : root.between) found.nodes.push_back(graph.position(*node));
  for (const Node* node : {slice, square, root.mean, &inverse, product}) found.nodes.push_back(graph.position(*node));
  return found;
}

namespace {

// A slice of maps' channels, transposed and reshaped to rows of pixels; `first` is where it begins.
struct Rows {
  int maps = -1, first = 0;
  std::vector<int> nodes;
};

Rows rows_of(const Graph& graph, int tensor) {
  const Node* reshape = graph.maker(tensor);
  const Node* transpose = reshape && reshape->code == kReshape ? graph.maker(reshape->inputs[0]) : nullptr;
  const Node* slice = transpose && transpose->code == kTranspose ? graph.maker(transpose->inputs[0]) : nullptr;
  if (!slice || slice->code != kSlice || !graph.reader(slice->outputs[0]) || !graph.reader(transpose->outputs[0])) return {};
  const TfLiteTensor &maps = graph.tensor(slice->inputs[0]), &part = graph.tensor(slice->outputs[0]);
  const TfLiteTensor& rows = graph.tensor(tensor);
  const Image all = image_of(maps), some = image_of(part), flat = image_of(rows);
  const std::vector<int> begin = constant_ints(graph.tensor(slice->inputs[1]));
  if (!all || !some || !flat || maps.dims->size != 4 || rows.dims->size != 3 || begin.size() != 4) return {};
  if (!is_float(maps) || !is_float(part) || !is_float(rows) || begin[0] || begin[1] || begin[2] || begin[3] < 0) return {};
  if (some.height != all.height || some.width != all.width || begin[3] > all.channels - some.channels) return {};
  if (flat.width != some.channels || flat.channels != some.height * some.width) return {};
  if (constant_ints(graph.tensor(transpose->inputs[1])) != std::vector<int>{0, 3, 1, 2}) return {};
  return {slice->inputs[0], begin[3], {graph.position(*slice), graph.position(*transpose), graph.position(*reshape)}};
}

bool has_shape(const TfLiteTensor& tensor, const std::vector<int>& shape) {
  return tensor.dims && std::vector<int>(tensor.dims->data, tensor.dims->data + tensor.dims->size) == shape;
}

}  // namespace

Decode decode_at(const Graph& graph, const Node& softmax) {
  Decode found;
  const int p = softmax.outputs[0];
  const Rows heat = rows_of(graph, softmax.inputs[0]);
  if (heat.maps < 0 || softmax.beta != 1.0f || !graph.reader(softmax.inputs[0])) return {};
  if (!same_shape(graph.tensor(softmax.inputs[0]), graph.tensor(p))) return {};
  const Image rows = image_of(graph.tensor(p));
  found.maps = heat.maps, found.heat = heat.first, found.joints = rows.width, found.pixels = rows.channels;
  found.channels = image_of(graph.tensor(heat.maps)).channels;
  found.nodes = heat.nodes, found.nodes.push_back(graph.position(softmax));
  int positions = -1;
  for (const int reader : graph.readers(p)) {
    const Node& node = graph.nodes()[size_t(reader)];
    found.nodes.push_back(reader);
    if (node.conv.activation || node.inputs[0] != p || !is_float(graph.tensor(node.outputs[0]))) return {};
    if (node.code == kFullyConnected && positions < 0) {
      const TfLiteTensor& grid = graph.tensor(node.inputs[1]);
      if ((node.inputs.size() > 2 && node.inputs[2] >= 0) || !is_whole(grid) || !is_float(grid)) return {};
      positions = node.outputs[0], found.grid = node.inputs[1];
      if (!has_shape(grid, {2, found.pixels}) || !has_shape(graph.tensor(positions), {1, found.joints, 2})) return {};
    } else if (node.code == kMul) {
      const Rows other = rows_of(graph, node.inputs[1]);
      const Node* sum = graph.reader(node.outputs[0]);
      if (other.maps != heat.maps || !graph.reader(node.inputs[1]) || !sum || sum->code != kSum) return {};
      const std::vector<int> axes = constant_ints(graph.tensor(sum->inputs[1]));
      if (!same_shape(graph.tensor(node.inputs[1]), graph.tensor(p)) || (axes != std::vector<int>{2} && axes != std::vector<int>{-1}))
        return {};
      if (!has_shape(graph.tensor(sum->outputs[0]), {1, found.joints}) || !is_float(graph.tensor(sum->outputs[0]))) return {};
      found.sums.emplace_back(other.first, sum->outputs[0]);
      found.nodes.insert(found.nodes.end(), other.nodes.begin(), other.nodes.end());
      found.nodes.push_back(graph.position(*sum));
    } else {
      return {};
    }
  }
  if (found.sums.size() > size_t(kWeightedMaps)) return {};
  found.positions = positions;
  return found;
}

}  // namespace edge_hands::tflite
