// One line per row and case: `row case error hash`. The hash is FNV-1a over the bits of what a kernel wrote; every NaN
// counts as one, since machines differ in the bits of the NaN they make, and denormals as 0, as scan.h has it. A line
// over its tolerance fails the run.
#pragma once

#include <cinttypes>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <string>

#include "edge_hands/rows.h"
#include "guarded.h"
#include "reference.h"

class Hash {
 public:
  Hash& add(const Floats& values) {
    for (float v : values) {
      uint32_t bits;
      std::memcpy(&bits, &v, 4);
      if (v != v) bits = 0x7fc00000u;
      if (!(bits & 0x7f800000u)) bits &= 0x80000000u;
      for (int i = 0; i < 4; ++i) byte(uint8_t(bits >> 8 * i));
    }
    return *this;
  }
  Hash& add(const Bytes& values) {
    for (int8_t v : values) byte(uint8_t(v));
    return *this;
  }
  uint64_t value() const { return value_; }

 private:
  void byte(uint8_t b) { value_ = (value_ ^ b) * 1099511628211u; }
  uint64_t value_ = 14695981039346656037u;
};

class Report {
 public:
  explicit Report(std::string filter) : filter_(std::move(filter)) {}

  // Whether cases of this name are to be run.
  bool wants(const std::string& name) const { return name.find(filter_) != std::string::npos; }

  void line(const edge_hands::Row& row, const std::string& name, double error, double tolerance, const Hash& hash) {
    const bool good = error <= tolerance;  // not so when it is NaN
    std::printf("%s %s %.3g %016" PRIx64 "%s\n", row.name, name.c_str(), error, hash.value(), good ? "" : " FAILED");
    ++lines_, failures_ += !good;
  }
  // A statement that is true or not, printed only when it is not.
  void check(bool good, const edge_hands::Row& row, const std::string& name, const char* statement) {
    if (good) return;
    std::printf("%s %s FAILED: %s\n", row.name, name.c_str(), statement);
    ++failures_;
  }
  int lines() const { return lines_; }
  int failures() const { return failures_; }

 private:
  std::string filter_;
  int lines_ = 0, failures_ = 0;
};

// Largest error over the largest exact value; infinite where one is NaN or infinite and the other is not.
inline double relative_error(const Floats& found, const Doubles& exact) {
  double error = 0, largest = 0;
  for (int64_t i = 0; i < found.size(); ++i) {
    const double f = found[i], e = exact[size_t(i)];
    if (std::isfinite(e)) largest = std::fmax(largest, std::fabs(e));
    if (f == e || (f != f && e != e)) continue;
    const double off = std::fabs(f - e);
    error = off <= error ? error : std::isfinite(off) ? off : INFINITY;
  }
  return error > 0 ? error / std::fmax(largest, 1e-30) : 0;
}

inline bool same(const Floats& a, const Floats& b) { return Hash().add(a).value() == Hash().add(b).value(); }
inline bool same(const Bytes& a, const Bytes& b) { return Hash().add(a).value() == Hash().add(b).value(); }

// The parts of the program; each runs every row that this CPU supports.
void check_functions(Report& report);
void check_forward(Report& report);
void check_backward(Report& report);
void check_special(Report& report);
void check_layers(Report& report);

template <class Fn>
void for_rows(Fn fn) {
  const edge_hands::Rows rows = edge_hands::all_rows();
  for (size_t i = 0; i < rows.count; ++i)
    if (rows.first[i]->supported()) fn(*rows.first[i]);
}
