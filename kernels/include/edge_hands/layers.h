// int8 layers and what lies between them, on raw pointers: convolutions with everything that follows one in a network
// fused to its end. They exist for CPUs where they beat a runtime's own (rows.h says which); elsewhere the runtime's
// are used.
//
// An int8 value q is held as the byte q + 128, in a map (height, width, channels) with a border of `border` pixels that
// hold the zero point: a 3 x 3 layer reads it where the image ends. Zero points here are those of bytes, too.
//
//   layer      sum   = bias[n] + sum_k (byte_k - zero) weight[n][k]           exact, int32
//              q     = clamp(round(float(sum) scale[n]) + zero, low, 255)     halves to even
//   then       value = step (q - zero), combined with another tensor's value, each operation rounded once to float32
//   to int8    q     = clamp(round(value inverse) + zero, 0, 255)
//
// That is the arithmetic of XNNPACK and of export_targets/integer.py, bit for bit. A float32 layer adds its products in
// the order of the inputs, from the bias on, with fma.
#pragma once

#include <cstddef>
#include <cstdint>

namespace edge_hands {

// Output channels that are computed together. Vectors of bias and scale hold whole(channels, 16) * 16.
constexpr int64_t kLayerLanes = 16;
// Bytes or floats that a kernel may read, not use, behind a tensor's end.
constexpr size_t kLayerSlack = 64;

// Memory that later layers read, which a layer fetches while it computes. Weights are read once a run, and are more than a
// second-level cache holds: waiting for them took as long as computing.
struct Ahead {
  const char* data = nullptr;
  size_t bytes = 0;
};

struct Bytes {
  uint8_t* data = nullptr;  // channel 0 of pixel (0, 0), inside the border
  int32_t height = 0, width = 0, channels = 0, border = 0;

  int64_t pitch() const { return int64_t(width + 2 * border) * channels; }
  int64_t pixels() const { return int64_t(height) * width; }
};

// Values of (pixels, channels): float32, channels last and contiguous, or a map of bytes that stand for step (q - zero).
struct Operand {
  const float* values = nullptr;
  Bytes bytes;
  float step = 1.0f;
  int32_t zero = 0;
};

// Where values go: float32, bytes, or both.
struct Target {
  float* values = nullptr;
  Bytes bytes;  // data is null: none
  float inverse = 1.0f;
  int32_t zero = 0;
};

enum class Combine {
  kNothing,       // value
  kAdd,           // value + other
  kMultiply,      // value other
  kMultiplyInt8,  // bytes of value and other: float((q - zero) (other q - other zero)) product, rounded to bytes only
  kAddInt8,       // bytes of value and other: (q - zero) own + (other q - other zero) others, over 2^bits, halves up
  kAffine,        // value factor - shift
};

// What becomes of values: combined with another operand's, and kept.
struct Finish {
  Combine combine = Combine::kNothing;
  Operand other;
  float product = 1.0f;
  int32_t own = 0, others = 0, bits = 1;
  float factor = 1.0f, shift = 0.0f;
  Target target;
};

// Of one int8 layer: side x side, the same padding on every side, which the border of `in` must hold.
struct Convolution {
  Bytes in;
  int32_t in_zero = 0;
  int32_t side = 1, stride = 1, padding = 0;
  int32_t height = 0, width = 0, channels = 0;  // of the output
  const void* weight = nullptr;                 // as `pack` wrote it, with the bias
  const int32_t* bias = nullptr;                // whole vectors, as is scale
  const float* scale = nullptr;
  void* scratch = nullptr;  // scratch_bytes(...) that no one else writes while it runs, on a cache line
  float step = 1.0f;  // of the result q, with its zero point and its least value
  int32_t zero = 0, low = 0;
  Ahead ahead;
  Finish finish;  // kNothing with only bytes to write takes q as it is
};

// Depth-wise, 3 x 3, stride 1, padding 1.
struct Depthwise {
  Bytes in, out;
  const int32_t* weight = nullptr;  // (9, channels), whole vectors as are bias, from which zero sum of weights is taken
  const int32_t* bias = nullptr;
  const float* scale = nullptr;
  int32_t zero = 0, low = 0;
};

// float32, side x side, of an image of contiguous pixels that holds its padding already.
struct FloatConvolution {
  int32_t side = 1, stride = 1;
  int32_t in_width = 0, in_channels = 0;        // of x
  int32_t height = 0, width = 0, channels = 0;  // of y
  const float* x = nullptr;
  const float* weight = nullptr;  // packed, (channels / 16, side, side, in_channels, 16), missing ones 0
  const float* bias = nullptr;    // whole vectors
  float low = 0.0f;               // the least value of y
  float* y = nullptr;
};

// Rows of x, `count` floats of every `pitch`, scaled to a root mean square of 1; y is contiguous.
struct Norm {
  int64_t rows = 0, pitch = 0, count = 0;
  const float* x = nullptr;
  float each = 0.0f, epsilon = 0.0f;
  float* y = nullptr;
};

// The decode of heat-maps: per joint, a softmax over all pixels, and the mean of the pixels' places and of the same
// joint's value in other maps, weighted by it.
constexpr int kWeightedMaps = 2;
struct SoftArgmax {
  int64_t pixels = 0, channels = 0, joints = 0;
  const float* maps = nullptr;  // (pixels, channels)
  const float* grid = nullptr;  // (2, pixels): x, y
  int64_t heat = 0;             // where the joints' logits begin among the channels
  int weighted = 0;             // at most kWeightedMaps other maps, which begin at `first`
  int64_t first[kWeightedMaps] = {};
  float* positions = nullptr;  // (joints, 2)
  float* sums[kWeightedMaps] = {};  // (joints)
};

// The kernels of one row.
struct LayerKernels {
  // From (outputs, side, side, inputs) to the row's own order, packed_bytes(...) of it; the input's zero point goes into
  // the bias, whole vectors. The pointers of `shape`, and the map that it reads, need not be known yet.
  void (*pack)(const Convolution& shape, const int8_t* weight, const int32_t* bias, void* packed, int32_t* packed_bias);
  size_t (*packed_bytes)(const Convolution& shape);
  size_t (*scratch_bytes)(const Convolution&);
  void (*convolve)(const Convolution&);
  void (*depthwise)(const Depthwise&);
  void (*convolve_float)(const FloatConvolution&);
  // `rows` rows of `width` values: the rows of an image where there are maps, whose pixels lie side by side.
  void (*combine)(const Operand& value, int64_t rows, int64_t width, const Finish&);
  void (*soft_argmax)(const SoftArgmax&);
  // As export_targets/portable.py has it, bit for bit: x (1 / s), s = (r + m / r) / 2, r = sqrt(m), and m sums, with fma
  // from epsilon on, the squares times `each`.
  void (*refined_rms)(const Norm&);
};

inline int64_t whole(int64_t count, int64_t part) { return (count + part - 1) / part; }

// (3, 3, channels) to Depthwise's.
void pack_depthwise(const int8_t* weight, const int32_t* bias, int64_t channels, int32_t in_zero, int32_t* packed,
                    int32_t* packed_bias);
// (channels, products), those of a value of y in their order, to FloatConvolution's.
void pack_float(const float* weight, int64_t channels, int64_t products, float* packed);
// x / sqrt(mean(x^2) + epsilon).
void unit_rms(const Norm&);
// Every pixel, of `pixel` bytes, four times; pitches are those of rows, in bytes.
void double_size(const uint8_t* x, int64_t x_pitch, int64_t height, int64_t width, size_t pixel, uint8_t* y,
                 int64_t y_pitch);
// Every pixel of the border becomes `zero`.
void fill_border(const Bytes& map, int32_t zero);

}  // namespace edge_hands
