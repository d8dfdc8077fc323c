// Every row of the table over odd sizes and odd values: `kernels_test [part of a case's name]`. Exits with 1 when a
// tolerance is broken; an access out of bounds ends in a fault or in a failed canary.
#include <cstdio>

#include "report.h"

int main(int count, char** arguments) {
  Report report(count > 1 ? arguments[1] : "");
  check_functions(report);
  check_forward(report);
  check_backward(report);
  check_special(report);
  check_layers(report);
  std::fprintf(stderr, "%d lines, %d failures\n", report.lines(), report.failures());
  return report.failures() || !report.lines() ? 1 : 0;
}
