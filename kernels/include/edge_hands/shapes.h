// The sizes of a scan from the shapes of its arguments, checked, for runtimes that hand over raw tensors (the TFLite
// delegate, the ExecuTorch kernels). The numpy and torch faces check in Python (checks.py) with the same rules.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "edge_hands/scan.h"

namespace edge_hands {

using Shape = std::vector<int64_t>;

struct ScanShapes {
  Shape x, delta, A, B, C, D;
  Shape offset, weight;  // deformable scan: (b, L, G K 2) and (b, L, G K)
};

// Fills the sizes of `scan` and returns "", or returns a sentence that names the argument, what was expected and what
// was found. The selective scan passes points = 0; height and width are then unused.
std::string size_scan(const ScanShapes& shapes, int64_t height, int64_t width, int64_t points, Scan& scan);

}  // namespace edge_hands
