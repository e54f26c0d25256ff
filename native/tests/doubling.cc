// Questions whose answers are known.
#include <algorithm>
#include <cstring>
#include <fstream>
#include <numeric>

#include <unistd.h>

#include "modes.h"

namespace tritonfleet::testing {
namespace {

std::vector<float> floats(const std::string& bytes) {
  std::vector<float> values(bytes.size() / sizeof(float));
  if (!values.empty()) std::memcpy(values.data(), bytes.data(), values.size() * sizeof(float));
  return values;
}

}  // namespace

std::vector<std::string> model_names(Server& server) {
  std::vector<std::string> names;
  for (const auto& [name, state] : server.index()) names.push_back(name);
  return names;
}

std::vector<std::string> doublers(Server& server) {
  std::vector<std::string> names = model_names(server);
  std::erase_if(names, [](const std::string& name) { return !name.starts_with(kDoubler); });
  expect(!names.empty(), "the repository has no model whose name begins with 'double'");
  return names;
}

Question question_to_double(
    const std::string& model, const std::vector<std::int64_t>& shape, float first) {
  const auto count = std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies());
  std::vector<float> values(static_cast<std::size_t>(count));
  std::iota(values.begin(), values.end(), first);
  std::string bytes(values.size() * sizeof(float), '\0');
  if (!values.empty()) std::memcpy(bytes.data(), values.data(), bytes.size());
  return {model, {{"x", TRITONSERVER_TYPE_FP32, shape, bytes}}, {}};
}

std::string mistake(const Question& question, const Answer& answer) {
  if (!answer.error.empty()) return question.model + ": " + answer.error;
  if (answer.outputs.size() != 1) return question.model + ": it is not one output";
  const Tensor& x = question.inputs.at(0);
  const Tensor& y = answer.outputs.at(0);
  if (y.shape != x.shape) return question.model + ": the shape is another";
  std::vector<float> expected = floats(x.bytes);
  std::ranges::for_each(expected, [](float& value) { value *= 2; });
  return floats(y.bytes) == expected ? "" : question.model + ": the values are wrong";
}

std::size_t byte_size_of(TRITONSERVER_DataType type) {
  switch (type) {
    case TRITONSERVER_TYPE_BOOL:
    case TRITONSERVER_TYPE_UINT8:
    case TRITONSERVER_TYPE_INT8:
      return 1;
    case TRITONSERVER_TYPE_UINT16:
    case TRITONSERVER_TYPE_INT16:
    case TRITONSERVER_TYPE_FP16:
    case TRITONSERVER_TYPE_BF16:
      return 2;
    case TRITONSERVER_TYPE_UINT32:
    case TRITONSERVER_TYPE_INT32:
    case TRITONSERVER_TYPE_FP32:
      return 4;
    case TRITONSERVER_TYPE_UINT64:
    case TRITONSERVER_TYPE_INT64:
    case TRITONSERVER_TYPE_FP64:
      return 8;
    case TRITONSERVER_TYPE_INVALID:
    case TRITONSERVER_TYPE_BYTES:
      return 0;
  }
  return 0;
}

std::uint64_t resident_bytes() {
  std::ifstream statm("/proc/self/statm");
  std::uint64_t total = 0;
  std::uint64_t resident = 0;
  statm >> total >> resident;
  return resident * static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
}

}  // namespace tritonfleet::testing
