// Where the values of tensors are: in maps of bytes, as float32, or with another tensor that shows the same.
#include <algorithm>
#include <stdexcept>

#include "builder.h"

namespace edge_hands::tflite {

namespace {

// Between int8 and the bytes of maps. A function of its own, or the compiler would take what it writes for its pointers.
void change_signs(const uint8_t* from, int64_t count, uint8_t* to) {
  for (int64_t i = 0; i < count; ++i) to[i] = from[i] ^ 0x80;
}

}  // namespace

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

// What a float32 convolution reads, zeros around it, in memory that a step fills which is added.
const float* Builder::padded_floats(const Node& convolution) {
  const int x = convolution.inputs[0], edge = padding(convolution), added = edge - own_padding(graph_, convolution);
  Image image = image_of(tensor(x));
  image.height -= 2 * added, image.width -= 2 * added;
  Read value = read(x);
  const Bytes& bytes = value.operand.bytes;
  if (bytes.data && !(Image{bytes.height, bytes.width, bytes.channels} == image)) value = {{}, floats(x)};
  const size_t row = size_t(image.width) * size_t(image.channels), edges = size_t(edge) * size_t(image.channels);
  const size_t pitch = row + 2 * edges, size = size_t(image.height + 2 * edge) * pitch;
  auto* to = static_cast<float*>(memory(size * sizeof(float)));
  std::fill_n(to, size, 0.0f);
  float* inner = to + size_t(edge) * pitch + edges;
  program_.steps_.emplace_back([=, run = kernels_.combine, program = &program_](TfLiteContext*) {
    Operand from = value.operand;
    if (value.floats >= 0) from.values = program->floats(value.floats);
    Finish finish;
    for (int y = 0; y < image.height; ++y) {
      finish.target.values = inner + size_t(y) * pitch;
      run(from, 1, int64_t(row), finish);
      if (from.values) from.values += row;
      if (from.bytes.data) from.bytes.data += from.bytes.pitch();
    }
    return std::string();
  });
  return to;
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

// From int8 as the runtime and the scans have it, to a map.
void Builder::copy_in(int index) {
  Map& to = map(index);
  to.made = true;
  program_.steps_.emplace_back([index, b = to.bytes, program = &program_](TfLiteContext* context) -> std::string {
    const void* mine = program->places_[size_t(index)];
    const auto* from = static_cast<const uint8_t*>(mine ? mine : context->tensors[index].data);
    if (!from) return "a tensor has no data.";
    const int64_t width = int64_t(b.width) * b.channels;
    for (int64_t y = 0; y < b.height; ++y) change_signs(from + y * width, width, b.data + y * b.pitch());
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
    for (int64_t y = 0; y < b.height; ++y) change_signs(b.data + y * b.pitch(), width, to + y * width);
    return "";
  });
}

}  // namespace edge_hands::tflite
