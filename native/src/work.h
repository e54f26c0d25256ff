// One request while it is being answered.
//
// Knows Triton's requests and responses; not ONNX Runtime's sessions.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "config.h"
#include "failure.h"

namespace tritonfleet {

struct RequestInput {
  std::string name;
  const TensorType* type = nullptr;
  std::vector<std::int64_t> shape;
  TRITONBACKEND_Input* input = nullptr;
  std::uint32_t buffer_count = 0;
};

// An output of a request: rows of a result that it may share with others.
struct RequestOutput {
  std::string name;
  const TensorType* type = nullptr;
  std::vector<std::int64_t> shape;
  std::string_view bytes;             // as they are sent
  std::shared_ptr<const void> owner;  // keeps the bytes alive
};

struct Work {
  TRITONBACKEND_Request* request = nullptr;
  std::vector<RequestInput> inputs;    // in the order of their names
  std::vector<std::string> requested;  // the names of the outputs asked for
  std::int64_t rows = 1;               // what the statistics count
  std::vector<RequestOutput> outputs;
  std::vector<RequestOutput> states;
  std::optional<Failure> failure;
  TRITONBACKEND_Response* response = nullptr;  // once it has been prepared
};

// The input of that name; throws a Failure for one that config.pbtxt refers to and nobody sent.
const RequestInput& input_named(const Work& work, const std::string& name);

// Reads a request; what is wrong with it stands in `failure`, a cancellation, too.
Work read_work(TRITONBACKEND_Request* request, bool batched);

// The bytes of an input, one piece for each buffer. Throws a Failure unless they are in the
// host's memory and, for numbers, exactly as many as the shape needs.
std::vector<std::string_view> buffers_of(const RequestInput& input);

// The elements that a shape has; throws a Failure when they cannot be counted.
std::size_t element_count(const std::vector<std::int64_t>& shape);

// Makes a response of the outputs, or of the failure; its numbers are copied here.
void prepare_response(Work& work);

// Sends it.
void send_response(Work& work);

}  // namespace tritonfleet
