#include "weights.h"

#include <utility>

namespace tritonfleet {
namespace {

constexpr std::size_t kCacheLine = 64;

std::size_t placed_size(const Weight& weight) {
  return (weight.size + kCacheLine - 1) / kCacheLine * kCacheLine;
}

}  // namespace

Weights::Weights(
    const Ort& ort, Regions& regions, const MappedFile& file, std::vector<Weight> weights)
    : ort_(ort), weights_(std::move(weights)) {
  std::size_t size = 0;
  for (const Weight& weight : weights_) size += placed_size(weight);
  if (size == 0) return;
  region_ = regions.take(size);
  OrtMemoryInfo* memory_info = nullptr;
  ort(slot::CreateCpuMemoryInfo, OrtAllocatorType::kDevice, OrtMemoryType::kDefault, &memory_info);
  const Owned owned(ort, slot::ReleaseMemoryInfo, memory_info);
  char* next = region_.data();
  for (const Weight& weight : weights_) {
    file.read(next, weight.offset, weight.size);
    tensors_.push_back(tensor(weight, memory_info, next));
    next += placed_size(weight);
  }
}

Owned<OrtValue> Weights::tensor(
    const Weight& weight, const OrtMemoryInfo* memory_info, char* data) const {
  OrtValue* value = nullptr;
  ort_(slot::CreateTensorWithDataAsOrtValue, memory_info, data, weight.size, weight.dims.data(),
       weight.dims.size(), weight.type->ort, &value);
  return {ort_, slot::ReleaseValue, value};
}

void Weights::hand_over(OrtSessionOptions* options) const {
  for (std::size_t i = 0; i < weights_.size(); ++i) {
    ort_(slot::AddInitializer, options, weights_[i].name.c_str(), tensors_[i].get());
  }
}

}  // namespace tritonfleet
