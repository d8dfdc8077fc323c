// The scans of scan.h in double precision, one formula a line: what the rows are compared with.
#pragma once

#include <vector>

#include "edge_hands/scan.h"

using Doubles = std::vector<double>;

struct ExactForward {
  Doubles y, state;
};

struct ExactGradients {
  Doubles x, delta, A, B, C, D, offset, weight;
};

ExactForward exact_forward(const edge_hands::Scan& scan);
ExactGradients exact_backward(const edge_hands::Scan& scan, const float* grad_y);

// The real value of every y, as an int8: nearest even, saturated.
std::vector<int> exact_int8(const Doubles& y, const edge_hands::Quantization& q);
