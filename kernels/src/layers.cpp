// Packing of weights, the same for every row.
#include "edge_hands/layers.h"

#include <cmath>
#include <cstring>

namespace edge_hands {

void pack_depthwise(const int8_t* weight, const int32_t* bias, int64_t channels, int32_t in_zero, int32_t* packed,
                    int32_t* packed_bias) {
  const int64_t width = whole(channels, kLayerLanes) * kLayerLanes;
  for (int64_t n = 0; n < width; ++n) {
    int64_t sum = 0;
    for (int64_t k = 0; k < 9; ++k) {
      packed[k * width + n] = n < channels ? weight[k * channels + n] : 0;
      sum += packed[k * width + n];
    }
    packed_bias[n] = n < channels ? int32_t((bias ? bias[n] : 0) - in_zero * sum) : 0;
  }
}

void pack_float(const float* weight, int64_t channels, int64_t products, float* packed) {
  for (int64_t n = 0; n < whole(channels, kLayerLanes) * kLayerLanes; ++n)
    for (int64_t k = 0; k < products; ++k)
      packed[(n / kLayerLanes * products + k) * kLayerLanes + n % kLayerLanes] =
          n < channels ? weight[n * products + k] : 0;
}

void unit_rms(const Norm& n) {
  const float* x = n.x;
  float* y = n.y;
  for (int64_t t = 0; t < n.rows; ++t, x += n.pitch, y += n.count) {
    float sum = 0.0f;
    for (int64_t i = 0; i < n.count; ++i) sum += x[i] * x[i];
    const float inverse = 1.0f / std::sqrt(sum / float(n.count) + n.epsilon);
    for (int64_t i = 0; i < n.count; ++i) y[i] = x[i] * inverse;
  }
}

void double_size(const uint8_t* x, int64_t x_pitch, int64_t height, int64_t width, size_t pixel, uint8_t* y,
                 int64_t y_pitch) {
  for (int64_t row = 0; row < height; ++row, x += x_pitch, y += 2 * y_pitch) {
    for (int64_t i = 0; i < width; ++i)
      for (int64_t twice = 0; twice < 2; ++twice) std::memcpy(y + (2 * i + twice) * int64_t(pixel), x + i * int64_t(pixel), pixel);
    std::memcpy(y + y_pitch, y, size_t(2 * width) * pixel);
  }
}

void fill_border(const Bytes& map, int32_t zero) {
  const int64_t pitch = map.pitch(), edge = int64_t(map.border) * map.channels;
  for (int64_t y = -map.border; y < map.height + map.border; ++y) {
    uint8_t* row = map.data + y * pitch - edge;
    if (y < 0 || y >= map.height) {
      std::memset(row, zero, size_t(pitch));
    } else if (edge) {
      std::memset(row, zero, size_t(edge));
      std::memset(row + pitch - edge, zero, size_t(edge));
    }
  }
}

}  // namespace edge_hands
