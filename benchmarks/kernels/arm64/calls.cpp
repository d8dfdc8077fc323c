// Calls one scan a number of times, so that the instructions of one call are the difference of two runs:
// `calls selective|deformable float|int8|geometric SIDE CHANNELS STATES GROUPS CALLS`, L = SIDE * SIDE tokens.
#include <cstdlib>
#include <cstring>

#include "edge_hands/rows.h"
#include "problem.h"

int main(int count, char** arguments) {
  if (count != 8) return 2;
  const auto number = [&](int i) { return std::atoi(arguments[i]); };
  const bool deformable = !std::strcmp(arguments[1], "deformable"), int8 = !std::strcmp(arguments[2], "int8");
  Case sizes = {"counted", 1, number(3), number(3), number(4), number(5), number(6)};
  if (!std::strcmp(arguments[2], "geometric")) sizes.rates = Rates::kGeometric;
  const Problem p(sizes, Place::kEnd);
  Floats y(p.x.size(), Place::kEnd);
  Bytes y_int8(p.x.size(), Place::kEnd);
  edge_hands::ScanOutput output;
  if (int8) output.y_int8 = y_int8.data(), output.y_quantization = {0.05f, 3};
  else output.y = y.data();
  const edge_hands::Scan scan = int8 ? p.scan_int8(deformable, false) : p.scan(deformable, false);
  for (int i = 0; i < number(7); ++i) scan_forward(edge_hands::find_row(nullptr), scan, output, 1);
}
