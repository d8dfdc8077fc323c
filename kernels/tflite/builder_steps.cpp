// One step, or one with what follows it, for each kind of node.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>

#include "builder.h"

namespace edge_hands::tflite {

namespace {

constexpr int kRelu = 1;

// The multipliers of a sum of int8, the larger with 21 bits, from the steps of what is added in those of the sum: XNNPACK's.
void set_sum(Finish& finish, float own, float others) {
  finish.bits = 20 - std::ilogb(std::max(own, others));
  finish.own = int32_t(std::lrint(std::ldexp(own, finish.bits)));
  finish.others = int32_t(std::lrint(std::ldexp(others, finish.bits)));
}

}  // namespace

template <class Fn>
void Builder::step(Fn fn) {
  program_.steps_.emplace_back([fn](TfLiteContext*) mutable {
    fn();
    return std::string();
  });
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
  Convolution c = shape_of(node);
  c.in = made(node.inputs[0]).bytes;
  c.padding = padding(node);
  void* weight = weights(kernels_.packed_bytes(c));
  auto* bias = static_cast<int32_t*>(memory(size_t(whole(c.channels, kLayerLanes) * kLayerLanes) * sizeof(int32_t)));
  kernels_.pack(c, static_cast<const int8_t*>(w.data), static_cast<const int32_t*>(tensor(node.inputs[2]).data), weight,
                bias);
  c.weight = weight, c.bias = bias, c.scale = rescales(node, c.channels);
  c.step = y.params.scale, c.zero = byte_zero(y), c.low = node.conv.activation == kRelu ? c.zero : 0;
  c.finish = finish;
  scratch_bytes_ = std::max(scratch_bytes_, kernels_.scratch_bytes(c));
  work_.emplace_back(reinterpret_cast<const char*>(weight), double(c.height) * c.width * double(w.bytes));
  program_.ahead_.emplace_back();
  step([index = program_.ahead_.size() - 1, c, other, values, run = kernels_.convolve, program = &program_]() mutable {
    c.ahead = program->ahead_[index], c.scratch = program->scratch_->get();
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

void Builder::add_float_convolution(const Node& node) {
  const TfLiteTensor& w = tensor(node.inputs[1]);
  const int y = node.outputs[0], *d = w.dims->data;
  const Image in = image_of(tensor(node.inputs[0])), out = image_of(tensor(y));
  FloatConvolution c;
  c.side = d[1], c.stride = node.conv.stride_height, c.in_width = in.width, c.in_channels = in.channels;
  c.height = out.height, c.width = out.width, c.channels = out.channels;
  c.low = node.conv.activation == kRelu ? 0.0f : -std::numeric_limits<float>::infinity();
  const size_t width = size_t(whole(c.channels, kLayerLanes) * kLayerLanes), products = size_t(d[1] * d[2] * d[3]);
  auto *weight = static_cast<float*>(weights(width * products * sizeof(float))),
       *bias = static_cast<float*>(memory(width * sizeof(float)));
  pack_float(static_cast<const float*>(w.data), c.channels, int64_t(products), weight);
  std::memcpy(bias, tensor(node.inputs[2]).data, size_t(c.channels) * sizeof(float));
  c.weight = weight, c.bias = bias;
  int x = -1;
  if (padding(node)) {
    c.in_width += 2 * own_padding(graph_, node);
    c.x = padded_floats(node);
  } else {
    x = floats(node.inputs[0]);
  }
  place(y);
  step([c, x, y, run = kernels_.convolve_float, program = &program_]() mutable {
    if (x >= 0) c.x = program->floats(x);
    c.y = program->floats(y);
    run(c);
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
    finish.other.bytes = other.bytes, finish.other.zero = other.zero;
    if (node.code == kAdd) {
      finish.combine = Combine::kAddInt8;
      set_sum(finish, tensor(a).params.scale / tensor(y).params.scale, tensor(b).params.scale / tensor(y).params.scale);
    } else {
      finish.combine = Combine::kMultiplyInt8;
      finish.product = tensor(node.inputs[0]).params.scale * tensor(node.inputs[1]).params.scale / tensor(y).params.scale;
    }
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
  if (!rms) throw std::runtime_error("a norm is not whole.");
  const int x = floats(rms.x);
  Norm norm;
  norm.rows = int64_t(elements(tensor(rms.x)) / size_t(rms.width)), norm.pitch = rms.width, norm.count = rms.count;
  norm.each = rms.each, norm.epsilon = rms.epsilon;
  place(rms.y);
  step([norm, x, rms, run = rms.each ? kernels_.refined_rms : unit_rms, program = &program_]() mutable {
    norm.x = program->floats(x) + rms.first, norm.y = program->floats(rms.y);
    run(norm);
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

}  // namespace edge_hands::tflite
