// exp2, softplus and sigmoid of every row over all kinds of floats, against double precision.
#include <cmath>
#include <cstring>

#include "problem.h"
#include "report.h"

namespace {

double exact(const char* name, double v) {
  if (!std::strcmp(name, "exp2")) return std::exp2(v);
  if (!std::strcmp(name, "softplus")) return std::fmax(v, 0.0) + std::log1p(std::exp(-std::fabs(v)));
  return 1 / (1 + std::exp(-v));
}

// How far `found` is off, in units of what vector_math.h promises for this input; outside the promised range, whether
// it is the limit.
double excess(const char* name, float v, float found) {
  const double e = exact(name, v), relative = std::fabs(found - e) / e;
  if (v != v) return found != found ? 0 : INFINITY;
  if (!std::strcmp(name, "exp2")) {
    if (v <= -150) return found == 0 ? 0 : INFINITY;
    if (v < -126) return found >= 0 && found <= 0x1p-126 ? 0 : INFINITY;  // a denormal, or 0
    if (v <= 127) return relative / 2e-7;
    return found == INFINITY || (v < 128.5f && relative <= 2e-7) ? 0 : INFINITY;
  }
  if (v > 80) return found == (name[1] == 'i' ? 1 : v) ? 0 : INFINITY;
  if (v < -80) return std::fabs(found - e) <= 1e-34 ? 0 : INFINITY;
  return relative / (std::fabs(v) <= 10 ? 7e-7 : 4e-6);
}

}  // namespace

void check_functions(Report& report) {
  const uint32_t step = 40961;  // through all bit patterns: zeros, denormals, infinities and NaN among them
  const int64_t dense = 60000;
  for_rows([&](const edge_hands::Row& row) {
    const struct {
      const char* name;
      void (*apply)(const float*, float*, int64_t);
    } functions[] = {{"exp2", row.exp2}, {"softplus", row.softplus}, {"sigmoid", row.sigmoid}};
    for (const auto& f : functions) {
      if (!report.wants(f.name)) continue;
      Floats in(int64_t(UINT32_MAX / step) + dense + 1, Place::kOffset), out(in.size(), Place::kEnd);
      for (int64_t i = 0; i < in.size(); ++i) {
        const uint32_t bits = uint32_t(i) * step;
        if (i < dense) in[i] = float(i - dense / 2) * 0x1p-7f;
        else std::memcpy(&in[i], &bits, 4);
      }
      float* special = in.data();
      for (float v : {0.0f, -0.0f, INFINITY, -INFINITY, NAN, 128.0f, -127.0f}) *special++ = v;
      f.apply(in.data(), out.data(), in.size());
      double worst = 0;
      for (int64_t i = 0; i < in.size(); ++i) worst = std::fmax(worst, excess(f.name, in[i], out[i]));
      // Above 127 rows differ in where exp2 becomes infinite.
      Floats hashed(out.size(), Place::kEnd);
      for (int64_t i = 0; i < in.size(); ++i) hashed[i] = in[i] > 127 ? 0 : out[i];
      report.line(row, f.name, worst, 1, Hash().add(hashed));
      for (int64_t n : {0, 1, 3, 15, 17, 33}) {
        Floats some(n, Place::kEnd), few(n, Place::kOffset);
        std::memcpy(some.data(), in.data() + 7, size_t(n) * 4);
        f.apply(some.data(), few.data(), n);
        report.check(!n || !std::memcmp(few.data(), out.data() + 7, size_t(n) * 4), row, f.name, "any count is the same");
        report.check(few.intact(), row, f.name, "no more than n values are written");
      }
    }
  });
}
