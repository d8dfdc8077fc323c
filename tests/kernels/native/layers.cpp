// Convolutions of every row that has them against plain sums, those of int8 to the byte: sizes that fill no vector and no
// tile, both ways of a 3 x 3 layer, and the largest sums there are. Those of float32 get whole numbers, of which every
// order gives the same sum. Not every row has layers, and every row prints the same lines: these cases print none but failures.
#include "edge_hands/layers.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <string>

#include "problem.h"
#include "report.h"

namespace {

using edge_hands::kLayerLanes;
using edge_hands::kLayerSlack;
using edge_hands::whole;
using Octets = Guarded<uint8_t>;

enum class Fill { kRandom, kLargest };

struct Layer {
  const char* name;
  int side, stride, padding;
  int height, width, inputs, outputs;  // height and width of the output
  Fill fill = Fill::kRandom;
};

constexpr Layer kLayers[] = {
    {"1x1", 1, 1, 0, 5, 7, 19, 33},          {"1x1_small", 1, 1, 0, 3, 3, 256, 48},
    {"1x1_one", 1, 1, 0, 1, 1, 1, 1},        {"3x3_first", 3, 2, 0, 9, 6, 3, 16},
    {"3x3_half", 3, 2, 1, 4, 7, 16, 20},     {"3x3_odd", 3, 1, 1, 5, 6, 16, 32},
    {"3x3_narrow", 3, 1, 1, 6, 4, 15, 16},   {"3x3", 3, 1, 1, 12, 12, 32, 32},
    {"3x3_rest", 3, 1, 1, 10, 14, 19, 21},   {"3x3_within", 3, 1, 0, 4, 26, 40, 16},
    {"3x3_first_eight", 3, 2, 0, 9, 6, 3, 8}, {"3x3_eight", 3, 1, 1, 5, 7, 8, 8},
    {"1x1_and_eight", 1, 1, 0, 5, 5, 9, 24}, {"1x1_and_five", 1, 1, 0, 3, 5, 9, 21},
    {"3x3_tiny", 3, 1, 1, 2, 2, 17, 5},      {"3x3_largest", 3, 1, 1, 4, 6, 1024, 16, Fill::kLargest},
    {"1x1_largest", 1, 1, 0, 4, 6, 4096, 16, Fill::kLargest},
};

constexpr Layer kFloatLayers[] = {
    {"float_1x1", 1, 1, 0, 5, 7, 19, 33},  {"float_1x1_half", 1, 2, 0, 4, 3, 6, 24}, {"float_1x1_one", 1, 1, 0, 1, 1, 1, 1},
    {"float_3x3", 3, 1, 0, 5, 6, 16, 32},  {"float_3x3_half", 3, 2, 0, 4, 7, 3, 16}, {"float_3x3_eight", 3, 1, 0, 3, 5, 8, 8},
    {"float_3x3_rest", 3, 2, 0, 3, 3, 19, 21},
};

// A map whose pixels and border lie between guard pages, with the slack that kernels may read.
struct Map {
  std::unique_ptr<Octets> memory;
  edge_hands::Bytes bytes;

  Map(int height, int width, int channels, int border) {
    bytes = {nullptr, height, width, channels, border};
    memory = std::make_unique<Octets>((height + 2 * border) * bytes.pitch() + int64_t(kLayerSlack), Place::kEnd);
    bytes.data = memory->data() + border * (bytes.pitch() + channels);
  }
  uint8_t& at(int y, int x, int c) const { return bytes.data[y * bytes.pitch() + x * bytes.channels + c]; }
};

template <class T>
std::unique_ptr<Guarded<T>> lines(size_t bytes) {  // whole cache lines, so that the array begins on one
  return std::make_unique<Guarded<T>>(int64_t((bytes + 63) / 64 * 64 / sizeof(T)), Place::kEnd);
}

void check_layer(Report& report, const edge_hands::Row& row, const Layer& l) {
  const edge_hands::LayerKernels& kernels = *row.layers();
  Numbers numbers(uint64_t(l.inputs * 31 + l.outputs));
  const bool largest = l.fill == Fill::kLargest;
  const int height = (l.height - 1) * l.stride + l.side - 2 * l.padding;
  const int width = (l.width - 1) * l.stride + l.side - 2 * l.padding;
  const int64_t lanes = whole(l.outputs, kLayerLanes) * kLayerLanes, run = int64_t(l.side) * l.inputs;

  Map in(height, width, l.inputs, l.padding), out(l.height, l.width, l.outputs, 1);
  edge_hands::Convolution c;
  c.in = in.bytes, c.in_zero = largest ? 0 : 131;
  c.side = l.side, c.stride = l.stride, c.padding = l.padding;
  c.height = l.height, c.width = l.width, c.channels = l.outputs;
  std::memset(in.memory->data(), 0, size_t(in.memory->size()));
  edge_hands::fill_border(in.bytes, c.in_zero);
  for (int y = 0; y < height; ++y)
    for (int x = 0; x < width; ++x)
      for (int i = 0; i < l.inputs; ++i) in.at(y, x, i) = largest ? 255 : uint8_t(numbers.bits());

  auto weight = lines<int8_t>(size_t(l.outputs * l.side * run));
  for (int8_t& w : *weight) w = largest ? int8_t(-128) : int8_t(numbers.bits());
  auto bias = lines<int32_t>(size_t(lanes) * 4), packed_bias = lines<int32_t>(size_t(lanes) * 4);
  auto scale = lines<float>(size_t(lanes) * 4);
  const float reach = largest ? 32768.0f * float(l.side * run) / 127 : 127 * std::sqrt(float(l.side * run));
  for (int64_t n = 0; n < lanes; ++n) {
    (*bias)[n] = largest ? 0 : int32_t(numbers.bits()) >> 18;
    (*scale)[n] = numbers.uniform(0.7f, 1.4f) / reach;
  }
  auto packed = lines<uint8_t>(kernels.packed_bytes(c)), scratch = lines<uint8_t>(kernels.scratch_bytes(c));
  kernels.pack(c, weight->data(), bias->data(), packed->data(), packed_bias->data());

  c.weight = packed->data(), c.bias = packed_bias->data(), c.scale = scale->data(), c.scratch = scratch->data();
  c.zero = largest ? 255 : 120, c.low = l.outputs % 2 ? 120 : 0;
  c.finish.target.bytes = out.bytes, c.finish.target.zero = c.zero;
  std::memset(out.memory->data(), 77, size_t(out.memory->size()));
  kernels.convolve(c);

  int64_t wrong = 0, spilt = 0;
  for (int y = -1; y <= l.height; ++y)
    for (int x = -1; x <= l.width; ++x)
      for (int n = 0; n < l.outputs; ++n) {
        if (y < 0 || x < 0 || y == l.height || x == l.width) {
          spilt += out.at(y, x, n) != 77;
          continue;
        }
        int64_t sum = (*bias)[n];
        for (int j = 0; j < l.side; ++j)
          for (int i = 0; i < l.side; ++i)
            for (int k = 0; k < l.inputs; ++k)
              sum += (in.at(y * l.stride - l.padding + j, x * l.stride - l.padding + i, k) - c.in_zero) *
                     (*weight)[(n * l.side + j) * run + i * l.inputs + k];
        const float q = std::nearbyint(float(sum) * (*scale)[n]) + float(c.zero);
        wrong += out.at(y, x, n) != uint8_t(std::min(255.0f, std::max(float(c.low), q)));
      }
  report.check(!wrong, row, l.name, "bytes are those of exact sums");
  report.check(!spilt, row, l.name, "the border stays as it was");
  report.check(packed->intact() && scratch->intact() && packed_bias->intact(), row, l.name, "memory around it, too");
}

void check_float_layer(Report& report, const edge_hands::Row& row, const Layer& l, float low) {
  Numbers numbers(uint64_t(l.inputs * 17 + l.outputs));
  const auto number = [&] { return float(int32_t(numbers.bits()) >> 27); };  // -16 to 15
  const int height = (l.height - 1) * l.stride + l.side, width = (l.width - 1) * l.stride + l.side;
  const int64_t lanes = whole(l.outputs, kLayerLanes) * kLayerLanes, run = int64_t(l.side) * l.inputs;
  const int64_t products = l.side * run, values = int64_t(l.height) * l.width * l.outputs;
  Guarded<float> x(int64_t(height) * width * l.inputs, Place::kEnd), y(values, Place::kEnd);
  auto packed = lines<float>(size_t(lanes * products) * 4), bias = lines<float>(size_t(lanes) * 4);
  auto weight = lines<float>(size_t(l.outputs * products) * 4);
  for (float* p = x.data(); p != x.data() + x.size(); ++p) *p = number();
  for (int64_t i = 0; i < l.outputs * products; ++i) (*weight)[i] = number();
  for (int64_t n = 0; n < lanes; ++n) (*bias)[n] = n < l.outputs ? number() : 0.0f;
  edge_hands::pack_float(weight->data(), l.outputs, products, packed->data());

  edge_hands::FloatConvolution c;
  c.side = l.side, c.stride = l.stride, c.in_width = width, c.in_channels = l.inputs;
  c.height = l.height, c.width = l.width, c.channels = l.outputs;
  c.x = x.data(), c.weight = packed->data(), c.bias = bias->data(), c.low = low, c.y = y.data();
  row.layers()->convolve_float(c);

  int64_t wrong = 0;
  for (int64_t i = 0; i < values; ++i) {
    const int64_t n = i % l.outputs, pixel = i / l.outputs, v = pixel / l.width * l.stride, u = pixel % l.width * l.stride;
    float sum = (*bias)[n];
    for (int64_t j = 0; j < l.side; ++j)
      for (int64_t k = 0; k < run; ++k)
        sum += x[((v + j) * width + u) * l.inputs + k] * (*weight)[n * products + j * run + k];
    wrong += y[i] != std::max(sum, low);
  }
  report.check(!wrong, row, l.name, "values are plain sums");
  report.check(x.intact() && y.intact() && packed->intact() && bias->intact(), row, l.name, "memory around them stays");
}

// A sum of int8 with the multipliers of two steps, the largest shift there is and the smallest.
void check_sum(Report& report, const edge_hands::Row& row, int bits, int32_t own, int32_t others) {
  constexpr int kHeight = 3, kWidth = 5, kChannels = 9;  // rows of 45: two vectors and a part of one
  Numbers numbers{uint64_t(bits)};
  Map a(kHeight, kWidth, kChannels, 0), b(kHeight, kWidth, kChannels, 1), out(kHeight, kWidth, kChannels, 1);
  for (const Map* map : {&a, &b})
    for (uint8_t& byte : *map->memory) byte = uint8_t(numbers.bits());
  std::memset(out.memory->data(), 77, size_t(out.memory->size()));
  edge_hands::Operand value;
  value.bytes = a.bytes, value.zero = 255;
  edge_hands::Finish f;
  f.combine = edge_hands::Combine::kAddInt8;
  f.other.bytes = b.bytes, f.other.zero = 3;
  f.own = own, f.others = others, f.bits = bits;
  f.target.bytes = out.bytes, f.target.zero = 100;
  row.layers()->combine(value, kHeight, kWidth * kChannels, f);
  int64_t wrong = 0;
  for (int y = -1; y <= kHeight; ++y)
    for (int x = -1; x <= kWidth; ++x)
      for (int c = 0; c < kChannels; ++c) {
        int64_t right = 77;  // outside
        if (y >= 0 && x >= 0 && y < kHeight && x < kWidth) {
          const int64_t sum = int64_t(a.at(y, x, c) - 255) * own + int64_t(b.at(y, x, c) - 3) * others;
          right = std::min<int64_t>(255, std::max<int64_t>(0, ((sum + (int64_t(1) << (bits - 1))) >> bits) + 100));
        }
        wrong += out.at(y, x, c) != right;
      }
  report.check(!wrong, row, "sum", "bytes are those of exact sums, and the border stays as it was");
}

}  // namespace

void check_layers(Report& report) {
  for_rows([&](const edge_hands::Row& row) {
    if (!row.layers()) return;
    if (report.wants("sum")) {
      check_sum(report, row, 13, (1 << 21) - 1, 1 << 20);
      check_sum(report, row, 20, 1 << 20, 777777);
      check_sum(report, row, 30, 1 << 20, (1 << 21) - 1);
    }
    for (const Layer& layer : kLayers)
      if (report.wants(layer.name)) check_layer(report, row, layer);
    for (const Layer& layer : kFloatLayers)
      if (report.wants(layer.name))
        for (const float low : {0.0f, -std::numeric_limits<float>::infinity()}) check_float_layer(report, row, layer, low);
  });
}
