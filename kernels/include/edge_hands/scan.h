// The selective and the deformable scan, forward and backward, on raw pointers. No framework, no global state.
//
//   dt_t  = softplus(delta_t)
//   h_t   = exp(dt_t A) h_{t-1} + dt_t B_t s_t         h_{-1} = 0, one state per channel and n
//   y_t   = sum_n C_t h_t + D x_t
//
//   s_t   = x_t                                        selective scan (points == 0)
//   s_t   = sum_k w_{t,k} x(p_t + a_k + o_{t,k})       deformable scan; bilinear, zero outside the image
//
// All arrays are float32, C-contiguous, channels last. b batch, L tokens, D channels, N states, G groups,
// K points of a group, P = G K. Channel d belongs to group d / (D / G).
//
//   x, delta, y  (b, L, D)        A  (D, N)        D  (D)        B, C  (b, L, N)
//   offset       (b, L, G, K, 2)  (dy, dx) in pixels
//   weight       (b, L, G, K)
//
// Token t lies at p_t = (t / width, t % width). The anchors a_k are the n x n grid around it, row-major, n = sqrt(K).
// Finite inputs give finite outputs unless a product overflows; exp underflows to 0 below 2^-126. A NaN spreads to what
// depends on it, except that a point whose offset is NaN samples nothing. No input reads or writes out of bounds.
#pragma once

#include <cstddef>
#include <cstdint>

namespace edge_hands {

struct Scan {
  int64_t batch = 0, length = 0, channels = 0, states = 0;
  int64_t height = 0, width = 0, groups = 1, points = 0;  // points == 0: no deformation, height and width unused
  const float *x = nullptr, *delta = nullptr, *A = nullptr, *B = nullptr, *C = nullptr, *D = nullptr;
  const float *offset = nullptr, *weight = nullptr;
};

// Gradients of every input, each of the input's shape; offset and weight only for the deformable scan.
struct ScanGradients {
  float *x = nullptr, *delta = nullptr, *A = nullptr, *B = nullptr, *C = nullptr, *D = nullptr;
  float *offset = nullptr, *weight = nullptr;
};

struct Row;  // one instruction set's kernels, see rows.h

// y (b, L, D). Work is split over the batch, and over channels when there are more threads than images.
void scan_forward(const Row& row, const Scan& scan, float* y, int threads);

// Gradients of sum(y * grad_y). States are recomputed; the memory for that is 2 L N 32 floats per thread. Work is split
// over the batch; the sums over it are taken in one order for one thread count.
void scan_backward(const Row& row, const Scan& scan, const float* grad_y, const ScanGradients& gradients, int threads);

}  // namespace edge_hands
