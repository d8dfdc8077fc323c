// A static split of items over threads: no pool, no state. Starting a thread costs some 20 us.
#pragma once

#include <cstdint>
#include <system_error>
#include <thread>
#include <vector>

namespace edge_hands {

// How many threads `parallel` uses: at most one per item, at least one.
inline int workers(int64_t items, int threads) {
  return items < 1 || threads < 1 ? 1 : items < threads ? int(items) : threads;
}

// Calls fn(worker, first, last) once per worker over consecutive ranges of [0, items).
template <class Fn>
void parallel(int64_t items, int threads, Fn fn) {
  const int count = workers(items, threads);
  std::vector<std::thread> others;
  others.reserve(size_t(count));
  for (int w = 1; w < count; ++w) {
    const int64_t first = items * w / count, last = items * (w + 1) / count;
    try {
      others.emplace_back(fn, w, first, last);
    } catch (const std::system_error&) {
      fn(w, first, last);  // no thread to be had: do its share here
    }
  }
  fn(0, int64_t(0), items / count);
  for (std::thread& t : others) t.join();
}

}  // namespace edge_hands
