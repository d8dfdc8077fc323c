// Arrays that notice when a kernel leaves them: each lies between two pages that may not be touched, and the bytes left
// over in its own pages hold a pattern. Works without sanitizers and under emulation.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <new>

// kEnd: the array ends where the page after it begins, so that one element too far is a fault. kOffset: it begins one
// element after the page before it, so that float vectors are aligned to 4 bytes and no more.
enum class Place { kEnd, kOffset };

template <class T>
class Guarded {
 public:
  // Elements begin as the pattern: NaN for floats, so that what is not written is seen.
  Guarded(int64_t count, Place place) : count_(count) {
    const size_t page = size_t(sysconf(_SC_PAGESIZE)), bytes = size_t(count) * sizeof(T);
    const size_t inner = (bytes + sizeof(T) + page - 1) / page * page;
    mapped_ = inner + 2 * page;
    void* map = mmap(nullptr, mapped_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED) throw std::bad_alloc();
    map_ = static_cast<unsigned char*>(map);
    first_ = map_ + page, last_ = first_ + inner;
    if (mprotect(first_, inner, PROT_READ | PROT_WRITE)) throw std::bad_alloc();
    data_ = reinterpret_cast<T*>(place == Place::kEnd ? last_ - bytes : first_ + sizeof(T));
    std::memset(first_, kPattern, inner);
  }
  ~Guarded() { munmap(map_, mapped_); }
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;

  T* data() { return data_; }
  const T* data() const { return data_; }
  T& operator[](int64_t i) { return data_[i]; }
  T operator[](int64_t i) const { return data_[i]; }
  int64_t size() const { return count_; }
  T* begin() { return data_; }
  T* end() { return data_ + count_; }
  const T* begin() const { return data_; }
  const T* end() const { return data_ + count_; }

  // Whether the bytes around the elements are as they were.
  bool intact() const {
    const auto* begin = reinterpret_cast<const unsigned char*>(data_);
    for (const unsigned char* p = first_; p < begin; ++p)
      if (*p != kPattern) return false;
    for (const unsigned char* p = begin + size_t(count_) * sizeof(T); p < last_; ++p)
      if (*p != kPattern) return false;
    return true;
  }

 private:
  static constexpr unsigned char kPattern = sizeof(T) == 1 ? 0xa5 : 0xff;
  int64_t count_;
  size_t mapped_;
  unsigned char *map_, *first_, *last_;
  T* data_;
};

using Floats = Guarded<float>;
using Bytes = Guarded<int8_t>;
