#include "edge_hands/shapes.h"

namespace edge_hands {

namespace {

std::string text(const Shape& shape) {
  std::string out = "(";
  for (size_t i = 0; i < shape.size(); ++i) out += (i ? ", " : "") + std::to_string(shape[i]);
  return out + ")";
}

std::string differs(const char* name, const Shape& found, const Shape& expected) {
  return found == expected ? "" : std::string(name) + ": expected shape " + text(expected) + ", found " + text(found) + ".";
}

}  // namespace

std::string size_scan(const ScanShapes& s, int64_t height, int64_t width, int64_t points, Scan& scan) {
  if (s.x.size() != 3) return "x: expected 3 dimensions (B, L, D), found shape " + text(s.x) + ".";
  const int64_t batch = s.x[0], length = s.x[1], channels = s.x[2];
  if (s.A.size() != 2 || s.A[0] != channels)
    return "A: expected shape (" + std::to_string(channels) + ", N), found " + text(s.A) + ".";
  const int64_t states = s.A[1];
  for (const std::string& error :
       {differs("delta", s.delta, s.x), differs("B", s.B, {batch, length, states}),
        differs("C", s.C, {batch, length, states}), differs("D", s.D, {channels})})
    if (!error.empty()) return error;
  scan.batch = batch, scan.length = length, scan.channels = channels, scan.states = states;
  scan.height = scan.width = scan.points = 0, scan.groups = 1;
  if (points == 0) return "";

  int64_t side = 1;
  while (side * side < points) side += 2;
  if (points < 0 || side * side != points)
    return "points: expected the square of an odd number (1, 9, 25, ...), found " + std::to_string(points) + ".";
  if (height < 0 || width < 0 || (length && (width == 0 || length % width || length / width != height)) ||
      (!length && height && width))
    return "height, width: expected a product of " + std::to_string(length) + ", the tokens of x, found " +
           std::to_string(height) + " and " + std::to_string(width) + ".";
  if (s.weight.size() != 3) return "weight: expected 3 dimensions (B, L, G*K), found shape " + text(s.weight) + ".";
  const int64_t total = s.weight[2], groups = total / points;
  if (groups < 1 || total % points || channels % groups)
    return "weight: expected " + std::to_string(points) + " weights a group, of groups that divide the " +
           std::to_string(channels) + " channels of x, found " + std::to_string(total) + ".";
  for (const std::string& error :
       {differs("weight", s.weight, {batch, length, total}), differs("offset", s.offset, {batch, length, 2 * total})})
    if (!error.empty()) return error;
  constexpr int64_t most = 1 << 24;
  if (length > most / 64 || (channels && length > most / channels))
    return "x: expected at most 2**24 elements and 2**18 tokens an image, found " + text(s.x) + ".";
  scan.height = height, scan.width = width, scan.groups = groups, scan.points = points;
  return "";
}

}  // namespace edge_hands
