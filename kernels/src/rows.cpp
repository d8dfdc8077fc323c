// The table and the choice from it.
#include "edge_hands/rows.h"

#include <cstdlib>
#include <stdexcept>
#include <string>

#include "row_list.h"

namespace edge_hands {

static const Row* const kRows[] = {
    &kRowScalar,
#ifdef EDGE_HANDS_ROWS_X86
    &kRowAvx2,
    &kRowAvx512,
#endif
#ifdef EDGE_HANDS_ROWS_ARM64
    &kRowNeon,
#endif
};

Rows all_rows() { return {kRows, sizeof(kRows) / sizeof(*kRows)}; }

static const Row& named(const std::string& name, const std::string& argument) {
  std::string usable;
  for (const Row* row : kRows) {
    if (!row->supported()) continue;
    if (name == row->name) return *row;
    usable += (usable.empty() ? "" : ", ") + std::string(row->name);
  }
  throw std::invalid_argument(argument + ": expected one of " + usable + " (what this build and CPU offer), found '" +
                              name + "'. Choose one of them or leave it unset.");
}

static const Row& chosen() {
  const char* forced = std::getenv("EDGE_HANDS_ISA");
  if (forced && *forced) return named(forced, "EDGE_HANDS_ISA");
  const Row* best = kRows[0];
  for (const Row* row : kRows)
    if (row->supported()) best = row;
  return *best;
}

const Row& find_row(const char* name) {
  if (name && *name) return named(name, "isa");
  static const Row& row = chosen();  // an exception leaves it unset: the next call tries again
  return row;
}

}  // namespace edge_hands
