// The weights of one opened model, in memory that is its own.
#pragma once

#include <cstdint>
#include <vector>

#include "onnx_file.h"
#include "ort.h"
#include "regions.h"

namespace tritonfleet {

// Weights that ONNX Runtime uses where they are, without a copy of its own. They are read into
// memory of ours once; what happens to the file afterwards does not matter.
class Weights {
 public:
  Weights(const Ort& ort, Regions& regions, const MappedFile& file, std::vector<Weight> weights);
  Weights(const Weights&) = delete;
  Weights& operator=(const Weights&) = delete;

  // Makes a session that is created with these options use the weights. It must not outlive them.
  void hand_over(OrtSessionOptions* options) const;

  [[nodiscard]] std::uint64_t byte_size() const noexcept { return region_.size(); }

 private:
  [[nodiscard]] Owned<OrtValue> tensor(
      const Weight& weight, const OrtMemoryInfo* memory_info, char* data) const;

  const Ort& ort_;
  const std::vector<Weight> weights_;
  Region region_;
  std::vector<Owned<OrtValue>> tensors_;
};

}  // namespace tritonfleet
