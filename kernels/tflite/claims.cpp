#include "claims.h"

#include <algorithm>

namespace edge_hands::tflite {

namespace {

constexpr int kSame = 1, kValid = 2, kRelu = 1;

// The scales of int8 weights, one for each output channel of `axis`, all without a zero point.
bool has_channel_scales(const TfLiteTensor& weight, int axis) {
  if (weight.type != kTfLiteInt8 || !is_whole(weight) || weight.quantization.type != kAffineQuantization) return false;
  const auto* affine = static_cast<const AffineQuantization*>(weight.quantization.params);
  if (!affine || !affine->scale || !affine->zero_point || affine->scale->size != weight.dims->data[axis]) return false;
  const int* zeros = affine->zero_point->data;
  return std::all_of(zeros, zeros + affine->zero_point->size, [](int zero) { return zero == 0; });
}

bool is_bias(const Graph& graph, const Node& node, int type, int channels) {
  if (node.inputs.size() != 3) return false;
  const TfLiteTensor& bias = graph.tensor(node.inputs[2]);
  return is_constant(bias) && bias.type == type && bias.bytes == size_t(channels) * 4;
}

// 1 x 1 or 3 x 3, every pixel or every second one.
bool is_convolution(const Graph& g, const Node& n) {
  if (n.code != kConv || n.inputs.size() != 3) return false;
  const TfLiteTensor &x = g.tensor(n.inputs[0]), &w = g.tensor(n.inputs[1]);
  const Image in = image_of(x), out = image_of(g.tensor(n.outputs[0]));
  if (!in || !out || is_constant(x) || !w.dims || w.dims->size != 4) return false;
  const int side = w.dims->data[1], stride = n.conv.stride_height;
  if (w.dims->data[0] != out.channels || w.dims->data[2] != side || w.dims->data[3] != in.channels) return false;
  if ((side != 1 && side != 3) || (stride != 1 && stride != 2) || n.conv.stride_width != stride) return false;
  if (n.conv.dilation_height != 1 || n.conv.dilation_width != 1 || n.conv.activation > kRelu) return false;
  if (n.conv.padding != kValid && !(n.conv.padding == kSame && (stride == 1 || side == 1))) return false;
  const int around = 2 * own_padding(g, n);
  return out.height == (in.height + around - side) / stride + 1 && out.width == (in.width + around - side) / stride + 1;
}

bool is_int8_convolution(const Graph& g, const Node& n) {
  if (!is_convolution(g, n)) return false;
  const TfLiteTensor& y = g.tensor(n.outputs[0]);
  return is_int8(g.tensor(n.inputs[0])) && is_int8(y) && has_channel_scales(g.tensor(n.inputs[1]), 0) &&
         is_bias(g, n, kTfLiteInt32, image_of(y).channels);
}

bool is_int8_depthwise(const Graph& g, const Node& n) {
  if (n.inputs.size() != 3) return false;
  const TfLiteTensor &x = g.tensor(n.inputs[0]), &w = g.tensor(n.inputs[1]), &y = g.tensor(n.outputs[0]);
  const Image in = image_of(x), out = image_of(y);
  if (!in || !(in == out) || !is_int8(x) || !is_int8(y) || is_constant(x) || !w.dims || w.dims->size != 4) return false;
  const int* d = w.dims->data;
  return d[0] == 1 && d[1] == 3 && d[2] == 3 && d[3] == in.channels && has_channel_scales(w, 3) &&
         n.conv.stride_height == 1 && n.conv.stride_width == 1 && n.conv.dilation_height == 1 &&
         n.conv.dilation_width == 1 && n.conv.padding == kSame && n.conv.activation <= kRelu &&
         is_bias(g, n, kTfLiteInt32, in.channels);
}

bool is_float_convolution(const Graph& g, const Node& n) {
  if (!is_convolution(g, n)) return false;
  const TfLiteTensor &w = g.tensor(n.inputs[1]), &y = g.tensor(n.outputs[0]);
  return is_float(g.tensor(n.inputs[0])) && is_float(y) && is_float(w) && is_whole(w) &&
         is_bias(g, n, kTfLiteFloat32, image_of(y).channels);
}

bool is_doubling(const Graph& g, const Node& n) {
  const TfLiteTensor &x = g.tensor(n.inputs[0]), &y = g.tensor(n.outputs[0]);
  const Image in = image_of(x), out = image_of(y);
  const bool rounds_alike = x.type == y.type && (is_float(x) || (is_int8(x) && is_int8(y)));
  return in && rounds_alike && !n.conv.activation && x.dims->size == 4 &&
         out == Image{2 * in.height, 2 * in.width, in.channels};
}

// Whether XNNPACK adds these int8 values: the runtime's own sums are rounded in another way.
bool has_sum_steps(const TfLiteTensor& a, const TfLiteTensor& b, const TfLiteTensor& y) {
  const auto fits = [&](const TfLiteTensor& x) {
    const float step = x.params.scale / y.params.scale;
    return step >= 0x1p-10f && step < 0x1p8f;
  };
  return fits(a) && fits(b);
}

// The product or sum of two tensors that are computed, of one shape.
bool is_pairwise(const Graph& g, const Node& n) {
  const TfLiteTensor &a = g.tensor(n.inputs[0]), &b = g.tensor(n.inputs[1]), &y = g.tensor(n.outputs[0]);
  if (n.conv.activation || n.inputs[0] == n.inputs[1] || !same_shape(a, b) || !same_shape(a, y) || !image_of(y)) return false;
  if (is_constant(a) || is_constant(b)) return false;
  if (is_float(a)) return is_float(b) && is_float(y);
  return is_int8(a) && is_int8(b) && is_int8(y) && (n.code == kMul || has_sum_steps(a, b, y));
}

// Whether a node, taken alone, is one that we can run.
bool is_known(const Graph& g, const Node& n) {
  const TfLiteTensor &x = g.tensor(n.inputs[0]), &y = g.tensor(n.outputs[0]);
  switch (n.code) {
    case kConv:
      return is_int8_convolution(g, n) || is_float_convolution(g, n);
    case kDepthwise:
      return is_int8_depthwise(g, n);
    case kQuantize:
      return is_float(x) && is_int8(y) && !is_constant(x) && image_of(y) && same_shape(x, y);
    case kDequantize:
      return is_int8(x) && is_float(y) && image_of(y) && same_shape(x, y);
    case kAdd:
    case kMul:
      return is_pairwise(g, n);
    case kResizeNearest:
      return is_doubling(g, n);
    case kPad:
      return padding_of(g, n) > 0;
    case kReshape:
      return image_of(x) && image_of(y) && elements(x) == elements(y) && (is_float(x) || is_int8(x)) && x.type == y.type;
    default:
      return false;
  }
}

}  // namespace

int padding_of(const Graph& g, const Node& pad) {
  const TfLiteTensor &x = g.tensor(pad.inputs[0]), &y = g.tensor(pad.outputs[0]);
  const std::vector<int> sizes = constant_ints(g.tensor(pad.inputs[1]));
  const Image in = image_of(x);
  const bool ours = (is_int8(x) && is_int8(y)) || (is_float(x) && is_float(y));
  if (pad.code != kPad || !ours || is_constant(x) || !in || sizes.size() != 8) return -1;
  const int edge = sizes[2];
  if (edge < 1 || edge > in.height + in.width || !(image_of(y) == Image{in.height + 2 * edge, in.width + 2 * edge, in.channels}))
    return -1;
  return sizes == std::vector<int>{0, 0, edge, edge, edge, edge, 0, 0} ? edge : -1;
}

int own_padding(const Graph& g, const Node& n) {
  return n.conv.padding == kSame && n.conv.stride_height == 1 ? (g.tensor(n.inputs[1]).dims->data[1] - 1) / 2 : 0;
}

int transposed_back(const Graph& g, const Node& back) {
  const Node* there = g.maker(back.inputs[0]);
  if (back.code != kTranspose || !there || there->code != kTranspose) return -1;
  const std::vector<int> first = constant_ints(g.tensor(there->inputs[1])), second = constant_ints(g.tensor(back.inputs[1]));
  if (first.size() != second.size() || first.empty()) return -1;
  for (size_t i = 0; i < first.size(); ++i)
    if (second[i] < 0 || size_t(second[i]) >= first.size() || first[size_t(second[i])] != int(i)) return -1;
  return same_shape(g.tensor(there->inputs[0]), g.tensor(back.outputs[0])) ? there->inputs[0] : -1;
}

Affine affine_before(const Graph& g, const Node& quantize) {
  const Node* difference = g.maker(quantize.inputs[0]);
  if (!difference || difference->code != kSub || difference->conv.activation || !g.reader(difference->outputs[0])) return {};
  const Node* product = g.maker(difference->inputs[0]);
  if (!product || product->code != kMul || product->conv.activation || !g.reader(product->outputs[0])) return {};
  const TfLiteTensor &shift = g.tensor(difference->inputs[1]), &factor = g.tensor(product->inputs[1]);
  const TfLiteTensor& x = g.tensor(product->inputs[0]);
  if (!is_scalar(shift) || !is_scalar(factor) || !is_float(x) || !same_shape(x, g.tensor(quantize.outputs[0]))) return {};
  return {product, difference, *static_cast<const float*>(factor.data), *static_cast<const float*>(shift.data)};
}

std::vector<bool> claimed_nodes(const Graph& graph, bool layers) {
  const std::vector<Node>& nodes = graph.nodes();
  std::vector<bool> taken(nodes.size());
  for (size_t i = 0; i < nodes.size(); ++i) taken[i] = nodes[i].scan;
  const auto is_layer = [&](const Node& n) { return n.code == kConv && is_int8_convolution(graph, n); };
  const auto is_padded = [&](int tensor) { return graph.maker(tensor) && graph.maker(tensor)->code == kPad; };
  // What reads a padded image as one.
  const auto pads = [&](const Node& n) { return n.code == kConv && n.conv.padding == kValid && is_known(graph, n); };
  const auto is_resized = [&](const Node& n) {
    return n.scan && (n.inputs.empty() || n.outputs.size() != 1 || n.inputs[0] < 0 || n.outputs[0] < 0 ||
                      !same_shape(graph.tensor(n.inputs[0]), graph.tensor(n.outputs[0])));
  };
  if (!layers || std::none_of(nodes.begin(), nodes.end(), is_layer)) return taken;
  if (std::any_of(nodes.begin(), nodes.end(), is_resized)) return taken;

  std::vector<bool> part(nodes.size());  // of what is taken as a whole
  const auto made_by_us = [&](int tensor) {
    const Node* maker = graph.maker(tensor);
    return maker && taken[size_t(graph.position(*maker))];
  };
  // Layers begin anywhere; what lies between them is ours only behind something that is.
  const auto begins = [&](const Node& n) {
    return is_layer(n) || n.code == kQuantize || (n.code == kPad && is_int8(graph.tensor(n.inputs[0])));
  };
  const auto follows = [&](const Node& n) { return std::any_of(n.inputs.begin(), n.inputs.end(), made_by_us); };
  for (size_t i = 0; i < nodes.size(); ++i) {
    const Node& node = nodes[i];
    if (taken[i] || node.inputs.empty() || node.outputs.empty()) continue;
    if (node.code == kRsqrt || node.code == kDiv) {
      if (const UnitRms found = unit_rms_at(graph, node); found && made_by_us(found.x))
        for (const int n : found.nodes) taken[size_t(n)] = part[size_t(n)] = true;
    } else if (node.code == kSoftmax) {
      if (const Decode found = decode_at(graph, node); found && made_by_us(found.maps))
        for (const int n : found.nodes) taken[size_t(n)] = part[size_t(n)] = true;
    } else if (node.code == kTranspose) {
      if (const int source = transposed_back(graph, node); source >= 0 && made_by_us(source))
        taken[i] = taken[size_t(graph.position(*graph.maker(node.inputs[0])))] = true;
    } else if (is_known(graph, node)) {
      taken[i] = begins(node) || follows(node);
      if (const Affine affine = node.code == kQuantize ? affine_before(graph, node) : Affine{})
        for (const Node* before : {affine.product, affine.difference})
          taken[size_t(graph.position(*before))] = part[size_t(graph.position(*before))] = true;
    }
  }

  // Taken back where what they hand on would have to be made after all.
  for (bool changed = true; changed;) {
    changed = false;
    for (size_t i = 0; i < nodes.size(); ++i) {
      const Node& node = nodes[i];
      if (!taken[i] || node.scan || part[i]) continue;
      const auto all_readers = [&](auto wanted) {
        const auto& readers = graph.readers(node.outputs[0]);
        return !readers.empty() && std::all_of(readers.begin(), readers.end(), [&](int r) {
          return taken[size_t(r)] && wanted(nodes[size_t(r)]);
        });
      };
      bool keep = begins(node) || follows(node);
      if (node.code == kPad) keep &= all_readers([&](const Node& r) { return r.code == kDequantize || pads(r); });
      if (node.code == kDequantize && is_padded(node.inputs[0])) keep &= all_readers(pads);
      if (node.code == kTranspose && transposed_back(graph, node) < 0)
        keep &= all_readers([&](const Node& r) { return transposed_back(graph, r) >= 0; });
      if (node.code == kReshape)
        keep &= all_readers([&](const Node& r) { return !is_int8(graph.tensor(node.inputs[0])) || r.code == kDequantize; });
      if (!keep) taken[i] = false, changed = true;
    }
  }
  return taken;
}

}  // namespace edge_hands::tflite
