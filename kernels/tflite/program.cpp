#include "program.h"

#include <cstdlib>
#include <cstring>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "builder.h"

namespace edge_hands::tflite {

Memory::Memory(size_t bytes, bool often) {
  const size_t unit = often ? 2 << 20 : 64, whole_lines = (bytes + kLayerSlack + unit - 1) / unit * unit;
  data_.reset(std::aligned_alloc(unit, whole_lines));
  if (!data_) throw std::bad_alloc();
#if defined(__linux__)
  if (often) madvise(data_.get(), whole_lines, MADV_HUGEPAGE);  // without it there are more misses, no more
#endif
  std::memset(data_.get(), 0, whole_lines);
}

void Memory::Free::operator()(void* p) const { std::free(p); }

Program::Program(TfLiteContext* context, const Graph& graph, const TfLiteIntArray& outputs,
                 const std::vector<ScanNode>& scans, const Row& row) {
  places_.assign(context->tensors_size, nullptr);
  Builder(*this, graph, outputs, scans, row).build();
}

std::string Program::check(const TfLiteContext* context) const {
  for (const auto& [tensor, count] : elements_)
    if (elements(context->tensors[tensor]) != count)
      return "int8 layers are made for the sizes of the file; open the model without resizing its inputs.";
  return "";
}

std::string Program::run(TfLiteContext* context) {
  for (const int tensor : boundary_) {
    places_[size_t(tensor)] = context->tensors[tensor].data;
    if (!places_[size_t(tensor)]) return "a tensor has no data.";
  }
  for (const auto& step : steps_)
    if (std::string error = step(context); !error.empty()) return error;
  return "";
}

}  // namespace edge_hands::tflite
