// An ONNX file on disk, and how its weights are told apart from its graph.
//
// Knows protobuf's wire format and the few fields of onnx.proto that lead to the weights; not
// ONNX Runtime.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "tensor_types.h"

namespace tritonfleet {

// A file mapped into memory, read-only.
class MappedFile {
 public:
  explicit MappedFile(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  [[nodiscard]] std::string_view bytes() const noexcept { return {data_, size_}; }

  // Which file this is, and in which state: another one under the same name is not equal, nor is
  // this one after it has been written to.
  struct Stamp {
    std::uint64_t device = 0;
    std::uint64_t inode = 0;
    std::int64_t modified_s = 0;
    std::int64_t modified_ns = 0;
    bool operator==(const Stamp&) const = default;
  };
  [[nodiscard]] Stamp stamp() const;

  // Reads a part of the file into memory of the caller's own; faster than copying the mapping,
  // whose pages would first have to be faulted in.
  void read(void* target, std::size_t offset, std::size_t size) const;

 private:
  const char* data_ = nullptr;
  std::size_t size_ = 0;
  int descriptor_ = -1;
};

// A constant of the graph, and where its bytes lie in the file.
struct Weight {
  std::string name;
  const TensorType* type = nullptr;
  std::vector<std::int64_t> dims;
  std::size_t offset = 0;
  std::size_t size = 0;
};

// A model whose large constants have been replaced by references to the file they came from.
struct Outline {
  std::string proto;
  std::vector<Weight> weights;
};

// Leaves everything but large constants as it is. A file that is no well-formed model comes back
// whole and without weights: what is wrong with it is for ONNX Runtime to say.
//
// `aligned_only` leaves constants in the graph whose bytes are not aligned as their elements want
// to be: vectorised loops may fault on such if they are used where they lie.
Outline outline(std::string_view file, const std::string& file_name, bool aligned_only = false);

}  // namespace tritonfleet
