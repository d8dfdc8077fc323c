#include "scan_node.h"

#include <cmath>
#include <cstdlib>
#include <cstring>

#include "edge_hands/shapes.h"
#include "options.h"

namespace edge_hands::tflite {

namespace {

constexpr const char* kSelective = "edge_hands.selective_scan";
constexpr const char* kDeformable = "edge_hands.deformable_scan";

// An argument: its name, and where its shape and its data go.
struct Argument {
  const char* name;
  Shape ScanShapes::*shape;
  const float* Scan::*data;
};
constexpr Argument kArguments[] = {
    {"x", &ScanShapes::x, &Scan::x},
    {"offset", &ScanShapes::offset, &Scan::offset},
    {"weight", &ScanShapes::weight, &Scan::weight},
    {"delta", &ScanShapes::delta, &Scan::delta},
    {"A", &ScanShapes::A, &Scan::A},
    {"B", &ScanShapes::B, &Scan::B},
    {"C", &ScanShapes::C, &Scan::C},
    {"D", &ScanShapes::D, &Scan::D},
};
constexpr size_t kCount = sizeof(kArguments) / sizeof(kArguments[0]);

// The arguments of an op in the order of its inputs: the selective scan lacks offset and weight.
const Argument& argument(bool deformable, size_t input) {
  return kArguments[deformable || input == 0 ? input : input + 2];
}

const TfLiteTensor* tensor_at(const TfLiteContext* context, int index) {
  return index >= 0 && size_t(index) < context->tensors_size ? &context->tensors[index] : nullptr;
}

// float32, or int8 where a Quantization is given, which is then filled.
std::string check_type(const char* name, const TfLiteTensor& tensor, Quantization* quantization) {
  const std::string where = std::string(name) + ": expected ";
  if (tensor.type == kTfLiteFloat32) return "";
  if (tensor.type != kTfLiteInt8 || !quantization)
    return where + (quantization ? "float32 or int8" : "float32") + ", found TFLite type " +
           std::to_string(tensor.type) + ".";
  const auto [scale, zero_point] = tensor.params;
  if (!(scale > 0.0f) || !std::isfinite(scale) || zero_point < INT8_MIN || zero_point > INT8_MAX)
    return where + "one positive scale and a zero point from -128 to 127 for its int8 values, found " +
           std::to_string(scale) + " and " + std::to_string(zero_point) + ".";
  *quantization = {scale, zero_point};
  return "";
}

size_t bytes_of(const TfLiteTensor& tensor, const Shape& shape) {
  size_t bytes = tensor.type == kTfLiteInt8 ? 1 : sizeof(float);
  for (const int64_t side : shape) bytes *= size_t(side);
  return bytes;
}

// The shape of an input, whose memory must be of that size: a sparse or damaged constant has less.
std::string read_shape(const char* name, const TfLiteTensor& tensor, Shape& shape) {
  if (!tensor.dims) return std::string(name) + ": has no shape.";
  const int* sides = tensor.dims->data;
  shape.assign(sides, sides + tensor.dims->size);
  for (const int64_t side : shape)
    if (side < 0) return std::string(name) + ": has a negative dimension.";
  if (tensor.bytes != bytes_of(tensor, shape))
    return std::string(name) + ": expected " + std::to_string(bytes_of(tensor, shape)) + " bytes, found " +
           std::to_string(tensor.bytes) + ".";
  return "";
}

TfLiteIntArray* copy_dims(const TfLiteIntArray& dims) {
  const size_t bytes = offsetof(TfLiteIntArray, data) + sizeof(int) * size_t(dims.size);
  void* copy = std::malloc(bytes);  // the runtime frees it
  return copy ? static_cast<TfLiteIntArray*>(std::memcpy(copy, &dims, bytes)) : nullptr;
}

}  // namespace

bool ScanNode::is_ours(const TfLiteRegistration& registration) {
  const char* name = registration.custom_name;
  return registration.builtin_code == kTfLiteBuiltinCustom && name &&
         (!std::strcmp(name, kSelective) || !std::strcmp(name, kDeformable));
}

ScanNode::ScanNode(const TfLiteNode& node, const TfLiteRegistration& registration)
    : deformable_(!std::strcmp(registration.custom_name, kDeformable)),
      inputs_(node.inputs->data, node.inputs->data + node.inputs->size),
      outputs_(size_t(node.outputs->size)) {
  if (outputs_) output_ = node.outputs->data[0];
  if (node.custom_initial_data && node.custom_initial_data_size > 0) {
    const auto* bytes = static_cast<const char*>(node.custom_initial_data);
    options_.assign(bytes, bytes + node.custom_initial_data_size);
  }
}

const char* ScanNode::name() const { return deformable_ ? kDeformable : kSelective; }

std::string ScanNode::prepare(TfLiteContext* context) {
  const size_t count = deformable_ ? kCount : kCount - 2;
  if (inputs_.size() != count || outputs_ != 1)
    return "expected " + std::to_string(count) + " inputs and 1 output, found " + std::to_string(inputs_.size()) +
           " and " + std::to_string(outputs_) + ".";
  Options options;
  std::string error = read_options(options_.data(), options_.size(), deformable_, options);
  if (!error.empty()) return error;
  ScanShapes shapes;
  for (size_t i = 0; i < count; ++i) {
    const Argument& a = argument(deformable_, i);
    const TfLiteTensor* input = tensor_at(context, inputs_[i]);
    if (!input) return std::string(a.name) + ": is missing.";
    error = check_type(a.name, *input, i == 0 ? &scan_.x_quantization : nullptr);
    if (error.empty()) error = read_shape(a.name, *input, shapes.*a.shape);
    if (!error.empty()) return error;
  }
  error = size_scan(shapes, options.height, options.width, options.points, scan_);
  if (!error.empty()) return error;

  if (!tensor_at(context, output_)) return "y: is missing.";
  TfLiteTensor& y = context->tensors[output_];
  error = check_type("y", y, &scan_output_.y_quantization);
  if (!error.empty()) return error;
  TfLiteIntArray* dims = copy_dims(*context->tensors[inputs_[0]].dims);
  if (!dims || context->ResizeTensor(context, &y, dims) != kTfLiteOk)
    return "y: the runtime cannot give it the shape of x.";
  output_bytes_ = bytes_of(y, shapes.x);
  return "";
}

std::string ScanNode::run(TfLiteContext* context, const Places& places, const Row& row, int threads) const {
  const auto data = [&](int index) -> void* {
    void* mine = size_t(index) < places.size() ? places[size_t(index)] : nullptr;
    return mine ? mine : context->tensors[index].data;
  };
  Scan scan = scan_;
  ScanOutput output = scan_output_;
  for (size_t i = 0; i < inputs_.size(); ++i) {
    const Argument& a = argument(deformable_, i);
    const TfLiteTensor& input = context->tensors[inputs_[i]];
    const void* values = data(inputs_[i]);
    if (!values && input.bytes) return std::string(a.name) + ": has no data.";
    if (input.type == kTfLiteInt8)
      scan.x_int8 = static_cast<const int8_t*>(values);
    else
      scan.*a.data = static_cast<const float*>(values);
  }
  void* y = data(output_);
  if (!y && scan.batch && scan.length && scan.channels) return "y: has no data.";
  if (context->tensors[output_].type == kTfLiteInt8)
    output.y_int8 = static_cast<int8_t*>(y);
  else
    output.y = static_cast<float*>(y);
  scan_forward(row, scan, output, threads);
  return "";
}

}  // namespace edge_hands::tflite
