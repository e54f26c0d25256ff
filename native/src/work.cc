#include "work.h"

#include <algorithm>
#include <cstring>

namespace tritonfleet {
namespace {

void refuse_cancelled(TRITONBACKEND_Request* request) {
  bool cancelled = false;
  check(TRITONBACKEND_RequestIsCancelled(request, &cancelled));
  if (cancelled) {
    throw Failure(TRITONSERVER_ERROR_CANCELLED, "the request was cancelled before it was executed");
  }
}

RequestInput read_input(TRITONBACKEND_Request* request, std::uint32_t index) {
  RequestInput read;
  check(TRITONBACKEND_RequestInputByIndex(request, index, &read.input));
  const char* name = nullptr;
  TRITONSERVER_DataType datatype = TRITONSERVER_TYPE_INVALID;
  const std::int64_t* shape = nullptr;
  std::uint32_t dims_count = 0;
  std::uint64_t byte_size = 0;
  check(TRITONBACKEND_InputProperties(
      read.input, &name, &datatype, &shape, &dims_count, &byte_size, &read.buffer_count));
  read.name = name;
  read.type = find_type(&TensorType::triton, datatype);
  if (read.type == nullptr) throw invalid("input '" + read.name + "' has a type ONNX lacks");
  read.shape.assign(shape, shape + dims_count);
  return read;
}

std::vector<RequestInput> read_inputs(TRITONBACKEND_Request* request) {
  std::uint32_t count = 0;
  check(TRITONBACKEND_RequestInputCount(request, &count));
  std::vector<RequestInput> inputs;
  inputs.reserve(count);
  for (std::uint32_t i = 0; i < count; ++i) inputs.push_back(read_input(request, i));
  // Requests of one batch may bring the same inputs in different orders.
  std::sort(inputs.begin(), inputs.end(), [](const auto& a, const auto& b) {
    return a.name < b.name;
  });
  return inputs;
}

std::vector<std::string> read_requested(TRITONBACKEND_Request* request) {
  std::uint32_t count = 0;
  check(TRITONBACKEND_RequestOutputCount(request, &count));
  std::vector<std::string> names;
  names.reserve(count);
  for (std::uint32_t i = 0; i < count; ++i) {
    const char* name = nullptr;
    check(TRITONBACKEND_RequestOutputName(request, i, &name));
    names.emplace_back(name);
  }
  return names;
}

std::int64_t rows_of(const std::vector<RequestInput>& inputs) {
  if (inputs.empty() || inputs.front().shape.empty()) return 1;
  return inputs.front().shape.front();
}

void require_host(TRITONSERVER_MemoryType memory_type, const std::string& what) {
  if (memory_type != TRITONSERVER_MEMORY_GPU) return;
  throw Failure(
      TRITONSERVER_ERROR_UNSUPPORTED, what + " is in a GPU's memory; this backend uses the host's");
}

void copy_out(const RequestOutput& output, void* target) {
  if (!output.bytes.empty()) std::memcpy(target, output.bytes.data(), output.bytes.size());
}

void add_output(TRITONBACKEND_Response* response, const RequestOutput& output) {
  TRITONBACKEND_Output* added = nullptr;
  check(TRITONBACKEND_ResponseOutput(
      response, &added, output.name.c_str(), output.type->triton, output.shape.data(),
      static_cast<std::uint32_t>(output.shape.size())));
  void* buffer = nullptr;
  auto memory_type = TRITONSERVER_MEMORY_CPU;
  std::int64_t memory_type_id = 0;
  check(TRITONBACKEND_OutputBuffer(
      added, &buffer, output.bytes.size(), &memory_type, &memory_type_id));
  require_host(memory_type, "output '" + output.name + "'");
  copy_out(output, buffer);
}

void keep_state(TRITONBACKEND_Request* request, const RequestOutput& output) {
  TRITONBACKEND_State* state = nullptr;
  check(TRITONBACKEND_StateNew(
      &state, request, output.name.c_str(), output.type->triton, output.shape.data(),
      static_cast<std::uint32_t>(output.shape.size())));
  void* buffer = nullptr;
  auto memory_type = TRITONSERVER_MEMORY_CPU;
  std::int64_t memory_type_id = 0;
  check(TRITONBACKEND_StateBuffer(
      state, &buffer, output.bytes.size(), &memory_type, &memory_type_id));
  require_host(memory_type, "state '" + output.name + "'");
  copy_out(output, buffer);
  check(TRITONBACKEND_StateUpdate(state));
}

TRITONBACKEND_Response* empty_response(const Work& work) {
  TRITONBACKEND_Response* response = nullptr;
  check(TRITONBACKEND_ResponseNew(&response, work.request));
  return response;
}

// A response with all outputs, or the failure that kept it from being made.
TRITONBACKEND_Response* filled_response(const Work& work) {
  TRITONBACKEND_Response* response = empty_response(work);
  try {
    for (const auto& output : work.outputs) add_output(response, output);
    for (const auto& state : work.states) keep_state(work.request, state);
    return response;
  } catch (const Failure& failure) {
    forget(TRITONBACKEND_ResponseDelete(response));
    throw;
  }
}

}  // namespace

Work read_work(TRITONBACKEND_Request* request, bool batched) {
  Work work;
  work.request = request;
  try {
    refuse_cancelled(request);
    work.inputs = read_inputs(request);
    work.requested = read_requested(request);
    if (batched) work.rows = rows_of(work.inputs);
  } catch (const Failure& failure) {
    work.failure = failure;
  }
  return work;
}

const RequestInput& input_named(const Work& work, const std::string& name) {
  for (const auto& input : work.inputs) {
    if (input.name == name) return input;
  }
  throw invalid("input '" + name + "', which batch_input or batch_output refers to, is missing");
}

std::size_t element_count(const std::vector<std::int64_t>& shape) {
  std::size_t count = 1;
  for (const auto dim : shape) {
    if (dim < 0 || __builtin_mul_overflow(count, static_cast<std::size_t>(dim), &count)) {
      throw invalid("a shape has more elements than can be counted");
    }
  }
  return count;
}

std::vector<std::string_view> buffers_of(const RequestInput& input) {
  std::vector<std::string_view> pieces;
  std::size_t total = 0;
  for (std::uint32_t i = 0; i < input.buffer_count; ++i) {
    const void* buffer = nullptr;
    std::uint64_t byte_size = 0;
    auto memory_type = TRITONSERVER_MEMORY_CPU;
    std::int64_t memory_type_id = 0;
    check(TRITONBACKEND_InputBuffer(
        input.input, i, &buffer, &byte_size, &memory_type, &memory_type_id));
    require_host(memory_type, "input '" + input.name + "'");
    pieces.emplace_back(static_cast<const char*>(buffer), byte_size);
    total += byte_size;
  }
  std::size_t expected = element_count(input.shape);
  const bool counted = !__builtin_mul_overflow(expected, input.type->byte_size, &expected);
  if (input.type->byte_size > 0 && (!counted || total != expected)) {
    throw invalid(
        "input '" + input.name + "' has " + std::to_string(total) +
        " bytes, which its shape does not need");
  }
  return pieces;
}

void prepare_response(Work& work) {
  try {
    if (!work.failure) work.response = filled_response(work);
  } catch (const Failure& failure) {
    work.failure = failure;
  }
  try {
    if (work.failure) work.response = empty_response(work);
  } catch (const Failure& failure) {
    forget(TRITONSERVER_LogMessage(TRITONSERVER_LOG_ERROR, __FILE__, __LINE__, failure.what()));
  }
}

void send_response(Work& work) {
  if (work.response == nullptr) return;
  TRITONSERVER_Error* error = work.failure ? work.failure->to_triton() : nullptr;
  forget(TRITONBACKEND_ResponseSend(work.response, TRITONSERVER_RESPONSE_COMPLETE_FINAL, error));
  forget(error);
}

}  // namespace tritonfleet
