#include "builder.h"

#include <cstring>
#include <stdexcept>

namespace edge_hands::tflite {

namespace {

constexpr int kRelu = 1;
// The last layers of our networks, at high resolution, compute much with few weights: nothing follows that they could fetch.
constexpr size_t kLastLayers = 6;

size_t whole_lines(size_t bytes) { return (bytes + 63) / 64 * 64; }

int32_t byte_zero(const TfLiteTensor& tensor) { return tensor.params.zero_point + 128; }

}  // namespace

Builder::Builder(Program& program, const Graph& graph, const TfLiteIntArray& outputs, const std::vector<ScanNode>& scans,
                 const Row& row)
    : program_(program), graph_(graph), scans_(scans), row_(row), kernels_(*row.layers()),
      outputs_(outputs.data, outputs.data + outputs.size) {}

void Builder::build() {
  find_decodes();
  find_aliases();
  find_borders();
  weights_left_ = weight_bytes();
  program_.memory_.push_back(std::make_unique<Memory>(weights_left_, true));
  weights_ = next_weight_ = static_cast<char*>(program_.memory_.back()->get());
  add_inputs();
  for (const Node& node : graph_.nodes())
    if (!done_.count(graph_.position(node))) add_node(node);
  add_outputs();
  look_ahead();
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
      bytes += whole_lines(size_t(whole(d[0], kLayerLanes) * kLayerLanes) * size_t(d[3]) * sizeof(float));
    else
      bytes += whole_lines(packed_bytes(d[0], d[1], d[3]));
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

template <class Fn>
void Builder::step(Fn fn) {
  program_.steps_.emplace_back([fn](TfLiteContext*) mutable {
    fn();
    return std::string();
  });
}

int Builder::root(int tensor) const {
  for (auto found = alias_.find(tensor); found != alias_.end(); found = alias_.find(tensor)) tensor = found->second;
  return tensor;
}

// A decode happens where its softmax stands: all that it reads has been made by then.
void Builder::find_decodes() {
  for (const Node& node : graph_.nodes())
    if (node.code == kSoftmax)
      for (const int part : decode_at(graph_, node).nodes)
        if (part != graph_.position(node)) done_.insert(part);
}

void Builder::find_aliases() {
  for (const Node& node : graph_.nodes()) {
    if (done_.count(graph_.position(node))) continue;
    const int y = node.outputs[0];
    const bool copied = node.code == kReshape && is_float(tensor(y)) && leaves(y);
    if ((node.code == kReshape && !copied) || node.code == kPad) alias_[y] = node.inputs[0];
    if (node.code == kPad) padding_[y] = padding_of(graph_, node);
    if (const int source = transposed_back(graph_, node); source >= 0) {
      alias_[y] = source;
    } else if (node.code == kTranspose && leaves(y)) {
      throw std::runtime_error("a transposed tensor is read by others too.");
    }
    if (node.code == kPad && leaves(y)) throw std::runtime_error("a padded tensor is read by others too.");
  }
}

void Builder::find_borders() {
  for (const Node& node : graph_.nodes()) {
    const int x = node.inputs[0];
    int wanted = 0;
    if (node.code == kConv && is_int8(tensor(x)))
      wanted = own_padding(graph_, node) + (padding_.count(x) ? padding_[x] : 0);
    if (node.code == kDepthwise) wanted = 1;
    int& border = border_[root(x)];
    if (wanted > border) border = wanted;
  }
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

Builder::Map& Builder::map(int index) {
  const int t = root(index);
  if (const auto found = maps_.find(t); found != maps_.end()) return found->second;
  const Image image = image_of(tensor(t));
  if (!image || !is_int8(tensor(t))) throw std::runtime_error("a tensor is no int8 image.");
  Map& made = maps_[t];
  made.scale = tensor(t).params.scale, made.zero = byte_zero(tensor(t));
  Bytes& b = made.bytes;
  b.height = image.height, b.width = image.width, b.channels = image.channels, b.border = border_[t];
  auto* data = static_cast<uint8_t*>(memory(size_t(b.pitch()) * size_t(b.height + 2 * b.border)));
  b.data = data + b.border * (b.pitch() + b.channels);
  fill_border(b, made.zero);
  return made;
}

Builder::Map& Builder::made(int index) {
  if (const auto found = waiting_.find(root(index)); found != waiting_.end()) add_plain(*found->second);
  Map& found = map(index);
  if (!found.made) throw std::runtime_error("a tensor is read before it is made.");
  return found;
}

void Builder::place(int index) {
  if (leaves(index))
    program_.boundary_.push_back(index);
  else
    program_.places_[size_t(index)] = memory(elements(tensor(index)) * sizeof(float));
  float_made_.insert(index);
}

const Node* Builder::dequantize_of(int index) const {
  const Node* maker = graph_.maker(root(index));
  return maker && maker->code == kDequantize ? maker : nullptr;
}

// The tensor that holds these float32 values; a step that makes them is added if there is none.
int Builder::floats(int index) {
  const int t = root(index);
  if (float_made_.count(t)) return t;
  if (!dequantize_of(t)) throw std::runtime_error("a float32 tensor is read before it is made.");
  const int from = dequantize_of(t)->inputs[0];
  if (const auto layer = waiting_.find(from); layer != waiting_.end()) {  // straight from its sums
    const Node& node = *layer->second;
    waiting_.erase(layer);
    place(t);
    add_convolution(node, {}, -1, t);
    return t;
  }
  const Read value = read(t);
  place(t);
  add_combine(value, image_of(tensor(t)), {}, -1, t);
  return t;
}

Builder::Read Builder::read(int index) {
  Read found;
  const int t = root(index);
  const Node* dequantize = dequantize_of(t);
  if (dequantize && !float_made_.count(t)) {
    const Map& from = made(dequantize->inputs[0]);
    found.operand.bytes = from.bytes, found.operand.step = from.scale, found.operand.zero = from.zero;
  } else {
    found.floats = floats(t);
  }
  return found;
}

// Where the float32 values of a tensor go: into memory if anybody reads them, and to int8 if that is what follows.
Builder::Written Builder::write(int index) {
  Written found;
  bool needed = leaves(index);
  for (const int reader : graph_.readers(index)) {
    const Node& node = graph_.nodes()[size_t(reader)];
    const int y = node.outputs[0];
    if (node.code != kQuantize || !is_float(tensor(node.inputs[0])) || !(image_of(tensor(y)) == image_of(tensor(index)))) {
      needed = true;
    } else if (!found.target.bytes.data) {
      Map& to = map(y);
      found.target.bytes = to.bytes, found.target.inverse = 1.0f / to.scale, found.target.zero = to.zero;
      to.made = true;
      done_.insert(reader);
    } else {
      needed = true;
    }
  }
  if (needed) place(index), found.floats = index;
  return found;
}

// Whether a layer's only use is as float32, or in one product of int8.
bool Builder::waits(const Node& layer) const {
  const int y = layer.outputs[0];
  const Node* reader = graph_.reader(y);
  if (leaves(y) || !reader) return false;
  if (reader->code == kDequantize) return true;
  return reader->code == kMul && reader->inputs[0] != reader->inputs[1];
}

void Builder::add_node(const Node& node) {
  if (node.scan) return add_scan();
  switch (node.code) {
    case kConv:
      if (!is_int8(tensor(node.inputs[0]))) return add_linear(node);
      if (waits(node)) {
        waiting_[node.outputs[0]] = &node;
        return;
      }
      return add_plain(node);
    case kDepthwise:
      return add_depthwise(node);
    case kAdd:
    case kMul:
      if (is_constant(tensor(node.inputs[1])) || node.inputs[0] == node.inputs[1]) return;  // with what it is part of
      if (const Node* maker = graph_.maker(node.inputs[1]); maker && maker->code == kRsqrt) return;
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
      return add_unit_rms(unit_rms_at(graph_, node));
    case kResizeNearest:
      return add_doubling(node);
    default:
      return;  // the parts of others, and what only shows other values
  }
}

// One scale a channel, from the layer's sums to its output, in whole vectors.
const float* Builder::rescales(const Node& node, int channels) {
  const TfLiteTensor &x = tensor(node.inputs[0]), &w = tensor(node.inputs[1]), &y = tensor(node.outputs[0]);
  const auto& scales = *static_cast<const AffineQuantization*>(w.quantization.params)->scale;
  auto* made = static_cast<float*>(memory(size_t(whole(channels, kLayerLanes) * kLayerLanes) * sizeof(float)));
  for (int n = 0; n < channels; ++n) {
    const float step = x.params.scale * scales.data[n];  // in this order, as XNNPACK does
    made[n] = step / y.params.scale;
  }
  return made;
}

void Builder::add_plain(const Node& node) {
  Map& to = map(node.outputs[0]);
  Finish finish;
  finish.target.bytes = to.bytes, finish.target.zero = to.zero;
  waiting_.erase(node.outputs[0]);
  add_convolution(node, finish, -1, -1);
  to.made = true;
}

void Builder::add_convolution(const Node& node, Finish finish, int other, int values) {
  const TfLiteTensor &w = tensor(node.inputs[1]), &y = tensor(node.outputs[0]);
  const Map& from = made(node.inputs[0]);
  const Image out = image_of(y);
  Convolution c;
  c.in = from.bytes, c.in_zero = from.zero;
  c.side = w.dims->data[1], c.stride = node.conv.stride_height;
  const auto padded = padding_.find(node.inputs[0]);
  c.padding = own_padding(graph_, node) + (padded == padding_.end() ? 0 : padded->second);
  c.height = out.height, c.width = out.width, c.channels = out.channels;
  auto* weight = static_cast<int8_t*>(weights(packed_bytes(c.channels, c.side, c.in.channels)));
  auto* bias = static_cast<int32_t*>(memory(size_t(whole(c.channels, kLayerLanes) * kLayerLanes) * sizeof(int32_t)));
  pack_convolution(static_cast<const int8_t*>(w.data), static_cast<const int32_t*>(tensor(node.inputs[2]).data),
                   c.channels, c.side, c.in.channels, c.in_zero, weight, bias);
  c.weight = weight, c.bias = bias, c.scale = rescales(node, c.channels);
  c.step = y.params.scale, c.zero = byte_zero(y), c.low = node.conv.activation == kRelu ? c.zero : 0;
  c.finish = finish;
  work_.emplace_back(reinterpret_cast<const char*>(weight), double(out.height) * out.width * double(w.bytes));
  program_.ahead_.emplace_back();
  step([index = program_.ahead_.size() - 1, c, other, values, run = kernels_.convolve, program = &program_]() mutable {
    c.ahead = program->ahead_[index];
    if (other >= 0) c.finish.other.values = program->floats(other);
    if (values >= 0) c.finish.target.values = program->floats(values);
    run(c);
  });
}

void Builder::add_depthwise(const Node& node) {
  const TfLiteTensor &w = tensor(node.inputs[1]), &y = tensor(node.outputs[0]);
  const Map from = made(node.inputs[0]);
  Map& to = map(node.outputs[0]);
  Depthwise d;
  d.in = from.bytes, d.out = to.bytes;
  const size_t width = size_t(whole(d.in.channels, kLayerLanes) * kLayerLanes);
  auto *weight = static_cast<int32_t*>(weights(9 * width * sizeof(int32_t))),
       *bias = static_cast<int32_t*>(memory(width * sizeof(int32_t)));
  pack_depthwise(static_cast<const int8_t*>(w.data), static_cast<const int32_t*>(tensor(node.inputs[2]).data),
                 d.in.channels, from.zero, weight, bias);
  d.weight = weight, d.bias = bias, d.scale = rescales(node, d.in.channels);
  d.zero = byte_zero(y), d.low = node.conv.activation == kRelu ? d.zero : 0;
  to.made = true;
  step([d, run = kernels_.depthwise] { run(d); });
}

void Builder::add_linear(const Node& node) {
  const int x = floats(node.inputs[0]), y = node.outputs[0];
  const Image in = image_of(tensor(x)), out = image_of(tensor(y));
  Linear l;
  l.rows = int64_t(out.height) * out.width, l.inputs = in.channels, l.outputs = out.channels;
  const size_t width = size_t(whole(l.outputs, kLayerLanes) * kLayerLanes);
  auto *weight = static_cast<float*>(weights(width * size_t(l.inputs) * sizeof(float))),
       *bias = static_cast<float*>(memory(width * sizeof(float)));
  pack_linear(static_cast<const float*>(tensor(node.inputs[1]).data), l.outputs, l.inputs, weight);
  std::memcpy(bias, tensor(node.inputs[2]).data, size_t(l.outputs) * sizeof(float));
  l.weight = weight, l.bias = bias;
  place(y);
  step([l, x, y, run = kernels_.linear, program = &program_]() mutable {
    l.x = program->floats(x), l.y = program->floats(y);
    run(l);
  });
}

void Builder::add_pair(const Node& node) {
  const int y = node.outputs[0];
  const auto layer_of = [&](int t) -> const Node* {
    const Node* maker = graph_.maker(t);
    if (leaves(t) || !graph_.reader(t)) return nullptr;  // others need it by itself
    const auto found = waiting_.find(maker && maker->code == kDequantize ? maker->inputs[0] : t);
    return found == waiting_.end() ? nullptr : found->second;
  };
  int a = node.inputs[0], b = node.inputs[1];
  if (!layer_of(a)) std::swap(a, b);
  const Node* layer = layer_of(a);
  Finish finish;
  if (is_int8(tensor(y))) {
    const Map other = made(b);
    finish.combine = Combine::kMultiplyInt8;
    finish.other.bytes = other.bytes, finish.other.zero = other.zero;
    finish.product = tensor(node.inputs[0]).params.scale * tensor(node.inputs[1]).params.scale / tensor(y).params.scale;
    Map& to = map(y);
    finish.target.bytes = to.bytes, finish.target.zero = to.zero;
    if (layer) {
      waiting_.erase(a);
      add_convolution(*layer, finish, -1, -1);
    } else {
      Read value;
      value.operand.bytes = made(a).bytes, value.operand.zero = made(a).zero;
      add_combine(value, image_of(tensor(y)), finish, -1, -1);
    }
    to.made = true;
    return;
  }
  finish.combine = node.code == kAdd ? Combine::kAdd : Combine::kMultiply;
  const Read other = read(b);
  if (layer) {
    const Written to = write(y);
    finish.other = other.operand, finish.target = to.target;
    waiting_.erase(layer->outputs[0]);
    add_convolution(*layer, finish, other.floats, to.floats);
  } else {
    const Read value = read(a);
    const Written to = write(y);
    finish.other = other.operand, finish.target = to.target;
    add_combine(value, image_of(tensor(y)), finish, other.floats, to.floats);
  }
}

void Builder::add_quantize(const Node& node) {
  Finish finish;
  int x = node.inputs[0];
  if (const Affine affine = affine_before(graph_, node)) {
    finish.combine = Combine::kAffine;
    finish.factor = affine.factor, finish.shift = affine.shift;
    x = affine.product->inputs[0];
  }
  const Read value = read(x);
  Map& to = map(node.outputs[0]);
  finish.target.bytes = to.bytes, finish.target.inverse = 1.0f / to.scale, finish.target.zero = to.zero;
  add_combine(value, image_of(tensor(node.outputs[0])), finish, -1, -1);
  to.made = true;
}

void Builder::add_combine(const Read& value, const Image& shape, Finish finish, int other, int values) {
  const bool maps = value.operand.bytes.data || finish.other.bytes.data || finish.target.bytes.data;
  const int64_t size = int64_t(shape.height) * shape.width * shape.channels, rows = maps ? shape.height : 1;
  // A dequantised tensor may be another shape than its bytes: then their rows count.
  const Bytes& bytes = value.operand.bytes;
  const int64_t height = bytes.data && !finish.other.bytes.data && !finish.target.bytes.data ? bytes.height : rows;
  step([=, operand = value.operand, from = value.floats, run = kernels_.combine, program = &program_]() mutable {
    if (from >= 0) operand.values = program->floats(from);
    if (other >= 0) finish.other.values = program->floats(other);
    if (values >= 0) finish.target.values = program->floats(values);
    run(operand, height, size / height, finish);
  });
}

void Builder::add_unit_rms(const UnitRms& rms) {
  const int x = floats(rms.x);
  const int64_t rows = int64_t(elements(tensor(rms.x)) / size_t(rms.width));
  place(rms.y);
  step([x, rows, rms, program = &program_] {
    const float* from = program->floats(x) + rms.first;
    unit_rms(from, rows, rms.width, rms.count, rms.epsilon, program->floats(rms.y));
  });
}

void Builder::add_decode(const Decode& decode) {
  SoftArgmax s;
  s.pixels = decode.pixels, s.channels = decode.channels, s.joints = decode.joints, s.heat = decode.heat;
  s.grid = static_cast<const float*>(tensor(decode.grid).data);
  s.weighted = int(decode.sums.size());
  place(decode.positions);
  for (int i = 0; i < s.weighted; ++i) s.first[i] = decode.sums[size_t(i)].first, place(decode.sums[size_t(i)].second);
  step([s, decode, maps = floats(decode.maps), run = kernels_.soft_argmax, program = &program_]() mutable {
    s.maps = program->floats(maps), s.positions = program->floats(decode.positions);
    for (int i = 0; i < s.weighted; ++i) s.sums[i] = program->floats(decode.sums[size_t(i)].second);
    run(s);
  });
}

void Builder::add_doubling(const Node& node) {
  const int x = node.inputs[0], y = node.outputs[0];
  if (is_int8(tensor(x))) {
    const Bytes from = made(x).bytes;
    Map& to = map(y);
    to.made = true;
    step([from, to = to.bytes] { double_size(from.data, from.pitch(), from.height, from.width, size_t(from.channels),
                                             to.data, to.pitch()); });
    return;
  }
  const Image image = image_of(tensor(x));
  const int values = floats(x);
  place(y);
  step([image, values, y, program = &program_] {
    const int64_t pixel = image.channels * int64_t(sizeof(float));
    double_size(reinterpret_cast<const uint8_t*>(program->floats(values)), image.width * pixel, image.height, image.width,
                size_t(pixel), reinterpret_cast<uint8_t*>(program->floats(y)), 2 * image.width * pixel);
  });
}

void Builder::add_scan() {
  const ScanNode& scan = scans_[next_scan_++];
  std::vector<std::pair<int, int>> shown;  // a tensor, and the one whose values it shows
  for (const int x : scan.inputs()) {
    if (is_constant(tensor(x))) continue;
    if (is_int8(tensor(x))) {
      if (graph_.maker(x)) copy_out(x);
    } else if (const int values = floats(x); values != x) {
      shown.emplace_back(x, values);
    }
  }
  const int y = scan.output();
  if (!leaves(y)) program_.places_[size_t(y)] = memory(elements(tensor(y)) * (is_int8(tensor(y)) ? 1 : sizeof(float)));
  program_.steps_.emplace_back([&scan, shown, program = &program_, row = &row_](TfLiteContext* context) {
    for (const auto& [tensor, values] : shown) program->places_[size_t(tensor)] = program->places_[size_t(values)];
    return scan.run(context, program->places_, *row, 1);
  });
  if (is_int8(tensor(y))) {
    copy_in(y);
  } else {
    if (leaves(y)) program_.boundary_.push_back(y);
    float_made_.insert(y);
  }
}

// From int8 as the runtime and the scans have it, to a map.
void Builder::copy_in(int index) {
  Map& to = map(index);
  to.made = true;
  program_.steps_.emplace_back([index, b = to.bytes, program = &program_](TfLiteContext* context) -> std::string {
    const void* mine = program->places_[size_t(index)];
    const auto* from = static_cast<const uint8_t*>(mine ? mine : context->tensors[index].data);
    if (!from) return "a tensor has no data.";
    const int64_t width = int64_t(b.width) * b.channels;
    for (int64_t y = 0; y < b.height; ++y)
      for (int64_t i = 0; i < width; ++i) b.data[y * b.pitch() + i] = from[y * width + i] ^ 0x80;
    return "";
  });
}

void Builder::copy_out(int index) {
  const Bytes b = made(index).bytes;
  if (!leaves(index)) program_.places_[size_t(index)] = memory(size_t(b.pixels() * b.channels));
  program_.steps_.emplace_back([index, b, program = &program_](TfLiteContext* context) -> std::string {
    void* mine = program->places_[size_t(index)];
    auto* to = static_cast<uint8_t*>(mine ? mine : context->tensors[index].data);
    if (!to) return "a tensor has no data.";
    const int64_t width = int64_t(b.width) * b.channels;
    for (int64_t y = 0; y < b.height; ++y)
      for (int64_t i = 0; i < width; ++i) to[y * width + i] = b.data[y * b.pitch() + i] ^ 0x80;
    return "";
  });
}

}  // namespace edge_hands::tflite
