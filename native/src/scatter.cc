#include "scatter.h"

#include <algorithm>
#include <memory>
#include <string>
#include <string_view>

#include "text.h"

namespace tritonfleet {
namespace {

using Shape = std::vector<std::int64_t>;

// A result of a run, of which every request gets its rows.
struct Result {
  std::string name;
  TensorInfo info;
  std::shared_ptr<const Owned<OrtValue>> value;
  const char* data = nullptr;     // of numbers
  std::vector<std::string> text;  // elements
};

Result describe(const Session& session, const std::string& name, Owned<OrtValue> value) {
  Result result{name, session.info(value), {}, nullptr, {}};
  if (result.info.type == nullptr) throw invalid("output '" + name + "' has a type Triton lacks");
  if (result.info.type->byte_size == 0) {
    result.text = session.text(value, element_count(result.info.shape));
  } else {
    result.data = static_cast<const char*>(session.data(value));
  }
  result.value = std::make_shared<const Owned<OrtValue>>(std::move(value));
  return result;
}

void put_elements(
    const Result& result, std::size_t start, std::size_t count, RequestOutput& output) {
  const std::size_t byte_size = result.info.type->byte_size;
  if (byte_size > 0) {
    if (count > 0) output.bytes = {result.data + start * byte_size, count * byte_size};
    output.owner = result.value;
    return;
  }
  auto encoded = std::make_shared<std::string>();
  for (std::size_t i = start; i < start + count; ++i) append_text(*encoded, result.text[i]);
  output.bytes = *encoded;
  output.owner = std::move(encoded);
}

// So many rows of a result, from one on.
RequestOutput slice(const Result& result, std::int64_t first_row, std::int64_t rows) {
  RequestOutput output{result.name, result.info.type, result.info.shape, {}, nullptr};
  output.shape.front() = rows;
  const Shape row(result.info.shape.begin() + 1, result.info.shape.end());
  const std::size_t start = static_cast<std::size_t>(first_row) * element_count(row);
  put_elements(result, start, element_count(output.shape), output);
  return output;
}

RequestOutput whole(const Result& result) {
  RequestOutput output{result.name, result.info.type, result.info.shape, {}, nullptr};
  put_elements(result, 0, element_count(output.shape), output);
  return output;
}

bool is_state(const ModelConfig& config, const std::string& name) {
  return std::any_of(config.states.begin(), config.states.end(), [&](const auto& state) {
    return state.output.name == name;
  });
}

void hand_out(const ModelConfig& config, Work& work, RequestOutput output) {
  const auto& requested = work.requested;
  if (is_state(config, output.name)) work.states.push_back(output);
  if (std::find(requested.begin(), requested.end(), output.name) != requested.end()) {
    work.outputs.push_back(std::move(output));
  }
}

// A flat result, of which each request gets as many elements as it sent, in the shape it sent.
void scatter_flat(
    const ModelConfig& config, const Works& works, const Result& result,
    const std::string& source_input) {
  const std::size_t total = element_count(result.info.shape);
  std::size_t start = 0;
  for (Work* work : works) {
    RequestOutput output{
        result.name, result.info.type, input_named(*work, source_input).shape, {}, nullptr};
    const std::size_t count = element_count(output.shape);
    if (count > total - start) {
      throw invalid("output '" + result.name + "' has fewer elements than its source_input");
    }
    put_elements(result, start, count, output);
    hand_out(config, *work, std::move(output));
    start += count;
  }
}

void scatter_rows(
    const ModelConfig& config, const Works& works, const Result& result, std::int64_t total_rows) {
  if (result.info.shape.empty() || result.info.shape.front() != total_rows) {
    throw invalid(
        "output '" + result.name + "' has no batch dimension, so it cannot be shared out");
  }
  std::int64_t row = 0;
  for (Work* work : works) {
    hand_out(config, *work, slice(result, row, work->rows));
    row += work->rows;
  }
}

}  // namespace

void scatter(
    const Session& session, const ModelConfig& config, const Works& works,
    const std::string& name, Owned<OrtValue> value, std::int64_t total_rows) {
  const Result result = describe(session, name, std::move(value));
  if (const std::string* source = config.scattered_like(name); source != nullptr) {
    scatter_flat(config, works, result, *source);
  } else if (works.size() == 1) {
    hand_out(config, *works.front(), whole(result));
  } else {
    scatter_rows(config, works, result, total_rows);
  }
}

}  // namespace tritonfleet
