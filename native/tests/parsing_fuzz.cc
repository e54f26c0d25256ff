// A fuzz target for what needs no server: bytes from a file and text from a configuration.
//
// The first byte chooses who reads the rest. libFuzzer calls this when it is built with clang and
// -fsanitize=fuzzer-no-link; parsing_fuzz_main.cc calls it with any compiler.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "config.h"
#include "failure.h"
#include "onnx_file.h"
#include "ort.h"
#include "text.h"

namespace {

using tritonfleet::BackendConfig;
using tritonfleet::Failure;
using tritonfleet::Outline;

void demand(bool met) {
  if (!met) std::abort();
}

// What a weight says of itself is what becomes a tensor: it must lie inside the file.
void outline(std::string_view file) {
  const Outline found = tritonfleet::outline(file, "model.onnx");
  for (const auto& weight : found.weights) {
    demand(weight.offset <= file.size() && weight.size <= file.size() - weight.offset);
    std::size_t size = weight.type->byte_size;
    for (const auto dim : weight.dims) {
      demand(!__builtin_mul_overflow(size, dim, &size));
    }
    demand(size == weight.size);
  }
  if (found.weights.empty()) return;
  // An outline has nothing left to take out.
  demand(tritonfleet::outline(found.proto, "model.onnx").weights.empty());
}

void configure(std::string_view text) {
  try {
    tritonfleet::parse_model_config(text, BackendConfig{});
  } catch (const Failure&) {
    return;
  }
}

void configure_backend(std::string_view text) {
  try {
    tritonfleet::parse_backend_config(text);
  } catch (const Failure&) {
    return;
  }
}

// The elements are all of the bytes but their lengths, and become the same bytes again.
void read_text(std::string_view bytes) {
  constexpr std::size_t kMostElements = 8;
  for (std::size_t count = 0; count < kMostElements; ++count) {
    try {
      std::string again;
      for (const auto element : tritonfleet::parse_text(bytes, count, "x")) {
        tritonfleet::append_text(again, element);
      }
      demand(again == bytes);
    } catch (const Failure&) {
      continue;
    }
  }
}

void read_message(std::string_view message) {
  const Failure failure = tritonfleet::invalid(tritonfleet::readable(std::string(message)));
  const std::string_view told = failure.what();
  demand(told.size() <= 2000 && tritonfleet::valid_utf8(told) == told);
}

constexpr void (*kReaders[])(std::string_view) = {
    outline, configure, configure_backend, read_text, read_message};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  // A copy of its own: a read past the end is seen.
  const std::basic_string<std::uint8_t> rest(data + 1, size - 1);
  kReaders[data[0] % std::size(kReaders)]({reinterpret_cast<const char*>(rest.data()), rest.size()});
  return 0;
}
