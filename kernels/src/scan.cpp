// Splits a call over threads, gives each its workspace, and sums what they share.
#include "edge_hands/scan.h"

#include <cstdlib>
#include <memory>
#include <new>

#include "denormals.h"
#include "edge_hands/rows.h"
#include "parallel.h"

namespace edge_hands {

namespace {

struct Free {
  void operator()(float* p) const { std::free(p); }
};
using Floats = std::unique_ptr<float, Free>;

size_t rounded(size_t floats) { return (floats + 15) / 16 * 16; }  // whole cache lines

// Memory for one call. The system would give and take a large block anew each time, page by page: each calling thread
// keeps its last one, unless it is very large.
class Workspace {
 public:
  explicit Workspace(size_t floats) {
    static thread_local Floats kept;
    static thread_local size_t size = 0;
    floats = rounded(floats ? floats : 1);
    if (floats > kKept) {
      own_ = allocate(floats);
      data_ = own_.get();
      return;
    }
    if (floats > size) {
      size = 0;
      kept = allocate(floats);
      size = floats;
    }
    data_ = kept.get();
  }
  float* get() const { return data_; }

 private:
  static constexpr size_t kKept = (8 << 20) / sizeof(float);

  static Floats allocate(size_t floats) {
    void* p = std::aligned_alloc(64, floats * sizeof(float));
    if (!p) throw std::bad_alloc();
    return Floats(static_cast<float*>(p));
  }

  Floats own_;
  float* data_;
};

constexpr int64_t kSplit = 64;            // channels are split in multiples of this: one wide tile of any row
constexpr int64_t kTableBytes = 24 << 10;  // of A and the states that are worked on together: half a first-level cache

// Into how many ranges an image's channels are split: as the threads ask for, and so that the tables stay in the cache.
int64_t channel_splits(const Scan& scan, int threads) {
  const int64_t blocks = (scan.channels + kSplit - 1) / kSplit;
  const int64_t for_threads = threads > scan.batch ? (threads + scan.batch - 1) / scan.batch : 1;
  const int64_t for_cache = scan.channels * scan.states * 8 / kTableBytes;
  const int64_t splits = for_threads > for_cache ? for_threads : for_cache;
  return splits < 1 ? 1 : splits < blocks ? splits : blocks;
}

}  // namespace

void scan_forward(const Row& row, const Scan& scan, const ScanOutput& output, int threads) {
  if (!scan.batch || !scan.channels) return;
  const int64_t splits = channel_splits(scan, threads), blocks = (scan.channels + kSplit - 1) / kSplit;
  const int64_t items = scan.batch * splits;
  const size_t each = rounded(row.forward_floats(scan, 0, scan.channels));
  const Workspace work(each * size_t(workers(items, threads)));
  parallel(items, threads, [&](int worker, int64_t first, int64_t last) {
    const FlushDenormals mode;
    for (int64_t item = first; item < last; ++item) {
      const int64_t split = item % splits, end = blocks * (split + 1) / splits * kSplit;
      row.forward(scan, output, item / splits, blocks * split / splits * kSplit,
                  end < scan.channels ? end : scan.channels, work.get() + size_t(worker) * each);
    }
  });
}

void scan_backward(const Row& row, const Scan& scan, const float* grad_y, const ScanGradients& gradients, int threads) {
  const int64_t per_A = scan.channels * scan.states, shared = per_A + scan.channels;
  for (int64_t i = 0; i < per_A; ++i) gradients.A[i] = 0.0f;
  for (int64_t i = 0; i < scan.channels; ++i) gradients.D[i] = 0.0f;
  if (!scan.batch || !scan.length || !scan.channels) return;
  const int count = workers(scan.batch, threads);
  const size_t own = rounded(size_t(shared)), each = own + rounded(row.backward_floats(scan));
  const Workspace work(each * size_t(count));
  parallel(scan.batch, threads, [&](int worker, int64_t first, int64_t last) {
    const FlushDenormals mode;
    float* sums = work.get() + size_t(worker) * each;
    for (int64_t i = 0; i < shared; ++i) sums[i] = 0.0f;
    for (int64_t image = first; image < last; ++image)
      row.backward(scan, image, grad_y, gradients, sums, sums + per_A, sums + own);
  });
  for (int worker = 0; worker < count; ++worker) {
    const float* sums = work.get() + size_t(worker) * each;
    for (int64_t i = 0; i < per_A; ++i) gradients.A[i] += sums[i];
    for (int64_t i = 0; i < scan.channels; ++i) gradients.D[i] += sums[per_A + i];
  }
}

}  // namespace edge_hands
