// The option bytes of our custom ops, written by edge_hands.kernels.delegate.options:
//
//   offset 0   int32   version, 1
//          4   int32   height of the image, in tokens
//          8   int32   width
//         12   int32   points of a group, K
//
// all little-endian, 16 bytes. `edge_hands.selective_scan` has 0 for height, width and points, which
// `edge_hands.deformable_scan` has not.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace edge_hands::tflite {

constexpr int32_t kOptionsVersion = 1;
constexpr size_t kOptionsBytes = 16;

struct Options {
  int32_t height = 0, width = 0, points = 0;
};

// Fills `options` and returns "", or returns a sentence that says what is wrong.
inline std::string read_options(const void* data, size_t size, bool deformable, Options& options) {
  if (size != kOptionsBytes)
    return "options: expected " + std::to_string(kOptionsBytes) + " bytes, found " + std::to_string(size) + ".";
  const auto* bytes = static_cast<const uint8_t*>(data);
  const auto word = [bytes](size_t i) {
    const uint8_t* b = bytes + 4 * i;
    return int32_t(uint32_t(b[0]) | uint32_t(b[1]) << 8 | uint32_t(b[2]) << 16 | uint32_t(b[3]) << 24);
  };
  if (word(0) != kOptionsVersion)
    return "options: expected version " + std::to_string(kOptionsVersion) + ", found " + std::to_string(word(0)) +
           "; export the model again or update edge_hands.";
  options = {word(1), word(2), word(3)};
  if (deformable != (options.points != 0) || (!deformable && (options.height || options.width)))
    return deformable ? "options: points: expected the square of an odd number, found 0."
                      : "options: expected no height, width and points.";
  return "";
}

}  // namespace edge_hands::tflite
