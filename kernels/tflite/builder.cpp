#include "builder.h"

#include <stdexcept>

namespace edge_hands::tflite {

namespace {

// The last layers of our networks, at high resolution, compute much with few weights: nothing follows that they could fetch.
constexpr size_t kLastLayers = 6;

size_t whole_lines(size_t bytes) { return (bytes + 63) / 64 * 64; }

}  // namespace

Builder::Builder(Program& program, const Graph& graph, const TfLiteIntArray& outputs, const std::vector<ScanNode>& scans,
                 const Row& row)
    : program_(program), graph_(graph), scans_(scans), row_(row), kernels_(*row.layers()),
      outputs_(outputs.data, outputs.data + outputs.size) {}

void Builder::build() {
  find_patterns();
  find_aliases();
  find_borders();
  weights_left_ = weight_bytes();
  program_.memory_.push_back(std::make_unique<Memory>(weights_left_, true));
  weights_ = next_weight_ = static_cast<char*>(program_.memory_.back()->get());
  add_inputs();
  for (const Node& node : graph_.nodes())
    if (!done_.count(graph_.position(node))) add_node(node);
  add_outputs();
  program_.scratch_ = std::make_unique<Memory>(scratch_bytes_);
  look_ahead();
}

// What is known of an int8 convolution before its input is made.
Convolution Builder::shape_of(const Node& node) const {
  const TfLiteTensor &x = tensor(node.inputs[0]), &w = tensor(node.inputs[1]);
  const Image out = image_of(tensor(node.outputs[0]));
  Convolution c;
  c.in.channels = w.dims->data[3], c.in_zero = byte_zero(x);
  c.side = w.dims->data[1], c.stride = node.conv.stride_height;
  c.height = out.height, c.width = out.width, c.channels = out.channels;
  return c;
}

// Of the weights of all layers, packed.
size_t Builder::weight_bytes() const {
  size_t bytes = 0;
  for (const Node& node : graph_.nodes()) {
    if (node.code != kConv && node.code != kDepthwise) continue;
    const TfLiteTensor& w = tensor(node.inputs[1]);
    const int* d = w.dims->data;
    if (node.code == kDepthwise)
      bytes += whole_lines(9 * size_t(whole(d[3], kLayerLanes) * kLayerLanes) * sizeof(int32_t));
    else if (is_float(w))
      bytes += whole_lines(size_t(whole(d[0], kLayerLanes) * kLayerLanes) * size_t(d[1] * d[2] * d[3]) * sizeof(float));
    else
      bytes += whole_lines(kernels_.packed_bytes(shape_of(node)));
  }
  return bytes;
}

void* Builder::weights(size_t bytes) {
  bytes = whole_lines(bytes);
  if (bytes > weights_left_) throw std::runtime_error("the weights of a layer are counted wrongly.");
  weights_left_ -= bytes;
  return next_weight_ += bytes, next_weight_ - bytes;
}

// Every convolution fetches what follows its own weights: the more, the more it computes. So all have been fetched when
// the last layers with many weights begin, and no more lies in the cache than must.
void Builder::look_ahead() {
  double products = 0, done = 0;
  for (size_t i = 0; i < work_.size(); ++i)
    if (i + kLastLayers < work_.size()) products += work_[i].second;
  const char *fetched = weights_, *end = next_weight_;
  for (size_t i = 0; i < work_.size(); ++i) {
    done += work_[i].second;
    const double share = products > 0 && done < products ? done / products : 1.0;
    const char* until = weights_ + int64_t(double(end - weights_) * share) / 64 * 64;
    const char* own_end = i + 1 < work_.size() ? work_[i + 1].first : end;
    if (fetched < own_end) fetched = own_end;
    if (until > fetched) program_.ahead_[i] = {fetched, size_t(until - fetched)}, fetched = until;
  }
}

void* Builder::memory(size_t bytes) {
  return program_.memory_.emplace_back(std::make_unique<Memory>(bytes))->get();
}

int Builder::root(int tensor) const {
  for (auto found = alias_.find(tensor); found != alias_.end(); found = alias_.find(tensor)) tensor = found->second;
  return tensor;
}

// A decode happens where its softmax stands, a norm where its inverse root does: all that it reads has been made by then.
void Builder::find_patterns() {
  for (const Node& node : graph_.nodes()) {
    std::vector<int> parts;
    if (node.code == kSoftmax) parts = decode_at(graph_, node).nodes;
    if (node.code == kRsqrt || node.code == kDiv) parts = unit_rms_at(graph_, node).nodes;
    for (const int part : parts)
      if (part != graph_.position(node)) done_.insert(part);
  }
}

void Builder::find_aliases() {
  for (const Node& node : graph_.nodes()) {
    if (done_.count(graph_.position(node))) continue;
    const int y = node.outputs[0];
    const bool copied = node.code == kReshape && is_float(tensor(y)) && leaves(y);
    if ((node.code == kReshape && !copied) || node.code == kPad) alias_[y] = node.inputs[0];
    if (node.code == kPad) padding_[y] = padding_of(graph_, node);
    if (node.code == kDequantize && padding_.count(node.inputs[0])) padding_[y] = padding_[node.inputs[0]];
    if (const int source = transposed_back(graph_, node); source >= 0) {
      alias_[y] = source;
    } else if (node.code == kTranspose && leaves(y)) {
      throw std::runtime_error("a transposed tensor is read by others too.");
    }
    if (padding_.count(y) && leaves(y)) throw std::runtime_error("a padded tensor is read by others too.");
  }
}

void Builder::find_borders() {
  for (const Node& node : graph_.nodes()) {
    const int x = node.inputs[0];
    const int wanted = node.code == kConv ? padding(node) : node.code == kDepthwise ? 1 : 0;
    int& border = border_[root(x)];
    if (wanted > border) border = wanted;
  }
}

int Builder::padding(const Node& convolution) const {
  const auto padded = padding_.find(convolution.inputs[0]);
  return own_padding(graph_, convolution) + (padded == padding_.end() ? 0 : padded->second);
}

void Builder::add_inputs() {
  std::unordered_set<int> seen;
  const auto crosses = [&](int index) {
    if (!seen.insert(index).second) return false;
    program_.elements_.emplace_back(index, elements(tensor(index)));
    return true;
  };
  for (const Node& node : graph_.nodes())
    for (const int x : node.inputs) {
      if (x < 0 || graph_.maker(x) || is_constant(tensor(x)) || !crosses(x)) continue;
      if (is_float(tensor(x))) {
        program_.boundary_.push_back(x);
        float_made_.insert(x);
      } else if (is_int8(tensor(x))) {
        copy_in(x);
      } else {
        throw std::runtime_error("an input is neither float32 nor int8.");
      }
    }
  for (const int y : outputs_) crosses(y);
}

void Builder::add_outputs() {
  for (const int y : outputs_)
    if (is_int8(tensor(y)) && !(graph_.maker(y) && graph_.maker(y)->scan)) copy_out(y);
}

// Whether a layer's only use is as float32, or in one sum or product of int8.
bool Builder::waits(const Node& layer) const {
  const int y = layer.outputs[0];
  const Node* reader = graph_.reader(y);
  if (leaves(y) || !reader) return false;
  if (reader->code == kDequantize) return true;
  return (reader->code == kMul || reader->code == kAdd) && reader->inputs[0] != reader->inputs[1];
}

void Builder::add_node(const Node& node) {
  if (node.scan) return add_scan();
  switch (node.code) {
    case kConv:
      if (!is_int8(tensor(node.inputs[0]))) return add_float_convolution(node);
      if (waits(node)) {
        waiting_[node.outputs[0]] = &node;
        return;
      }
      return add_plain(node);
    case kDepthwise:
      return add_depthwise(node);
    case kAdd:
    case kMul:
      if (is_constant(tensor(node.inputs[1]))) return;  // with the quantisation that it is part of
      return add_pair(node);
    case kQuantize:
      return add_quantize(node);
    case kDequantize:
      if (leaves(node.outputs[0])) floats(node.outputs[0]);
      return;
    case kReshape:
      if (!alias_.count(node.outputs[0])) {
        const Read value = read(node.inputs[0]);
        place(node.outputs[0]);
        add_combine(value, image_of(tensor(node.inputs[0])), {}, -1, node.outputs[0]);
      }
      return;
    case kSoftmax:
      return add_decode(decode_at(graph_, node));
    case kRsqrt:
    case kDiv:
      return add_unit_rms(unit_rms_at(graph_, node));
    case kResizeNearest:
      return add_doubling(node);
    default:
      return;  // the parts of others, and what only shows other values
  }
}

}  // namespace edge_hands::tflite
