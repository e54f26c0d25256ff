#include "execution.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <memory>
#include <optional>
#include <set>

#include "text.h"

namespace tritonfleet {
namespace {

using Shape = std::vector<std::int64_t>;
using Works = std::vector<Work*>;

bool stackable(const Work& a, const Work& b) {
  return std::equal(
      a.inputs.begin(), a.inputs.end(), b.inputs.begin(), b.inputs.end(),
      [](const RequestInput& x, const RequestInput& y) {
        return x.name == y.name && x.type == y.type && !x.shape.empty() && !y.shape.empty() &&
               std::equal(
                   x.shape.begin() + 1, x.shape.end(), y.shape.begin() + 1, y.shape.end());
      });
}

std::vector<Works> grouped(std::vector<Work>& works, bool batched) {
  std::vector<Works> groups;
  for (auto& work : works) {
    if (work.failure) continue;
    const auto found = std::find_if(groups.begin(), groups.end(), [&](const Works& group) {
      return batched && stackable(*group.front(), work);
    });
    if (found != groups.end()) {
      found->push_back(&work);
    } else {
      groups.push_back({&work});
    }
  }
  return groups;
}

bool aligned(const void* address, std::size_t unit) {
  return reinterpret_cast<std::uintptr_t>(address) % unit == 0;
}

// A tensor on the memory of a request, if it lies there in one well-aligned piece.
Owned<OrtValue> borrowed(
    const Session& session, const RequestInput& input,
    const std::vector<std::string_view>& pieces) {
  if (pieces.size() != 1 || pieces[0].empty() || !aligned(pieces[0].data(), input.type->byte_size)) {
    return {};
  }
  return session.borrow(*input.type, input.shape, pieces[0]);
}

// Copies the pieces of all requests one after the other.
Owned<OrtValue> gathered(
    const Session& session, const TensorType& type, const Shape& shape,
    const std::vector<std::vector<std::string_view>>& pieces) {
  auto value = session.allocate(type, shape);
  char* next = static_cast<char*>(session.data(value));
  for (const auto& request : pieces) {
    for (const auto piece : request) {
      if (piece.empty()) continue;
      std::memcpy(next, piece.data(), piece.size());
      next += piece.size();
    }
  }
  return value;
}

// The elements of one request's text, and the bytes that they point into.
struct Text {
  std::string joined;
  std::vector<std::string_view> elements;
};

Text read_text(const RequestInput& input, const std::vector<std::string_view>& pieces) {
  Text text;
  std::string_view bytes = pieces.size() == 1 ? pieces[0] : std::string_view();
  if (pieces.size() > 1) {
    for (const auto piece : pieces) text.joined.append(piece);
    bytes = text.joined;
  }
  text.elements = parse_text(bytes, element_count(input.shape), input.name);
  return text;
}

Owned<OrtValue> gathered_text(
    const Session& session, const Works& works, std::size_t index, const Shape& shape,
    const std::vector<std::vector<std::string_view>>& pieces) {
  // Read before anything is allocated: a shape may promise more elements than there are.
  std::vector<Text> texts(works.size());
  for (std::size_t i = 0; i < works.size(); ++i) {
    texts[i] = read_text(works[i]->inputs[index], pieces[i]);
  }
  auto value = session.allocate(*works.front()->inputs[index].type, shape);
  std::size_t next = 0;
  for (const auto& text : texts) {
    for (const auto element : text.elements) session.set_text(value, next++, element);
  }
  return value;
}

Owned<OrtValue> stacked(const Session& session, const Works& works, std::size_t index) {
  const RequestInput& first = works.front()->inputs[index];
  Shape shape = first.shape;
  std::vector<std::vector<std::string_view>> pieces;
  for (const Work* work : works) {
    pieces.push_back(buffers_of(work->inputs[index]));
    if (work != works.front()) shape.front() += work->inputs[index].shape.front();
  }
  if (first.type->byte_size == 0) return gathered_text(session, works, index, shape, pieces);
  if (works.size() == 1) {
    if (auto value = borrowed(session, first, pieces[0]); value.get() != nullptr) return value;
  }
  return gathered(session, *first.type, shape, pieces);
}

// The names of all outputs that somebody wants, states included, each once.
std::vector<std::string> wanted(const ModelConfig& config, const Works& works) {
  std::set<std::string> names;
  for (const Work* work : works) names.insert(work->requested.begin(), work->requested.end());
  for (const auto& state : config.states) names.insert(state.output.name);
  return {names.begin(), names.end()};
}

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

void share_out(
    const ModelConfig& config, const Works& works, const Result& result, std::int64_t total_rows) {
  if (works.size() == 1) return hand_out(config, *works.front(), whole(result));
  if (result.info.shape.empty() || result.info.shape.front() != total_rows) {
    throw invalid("output '" + result.name + "' has no batch dimension, so it cannot be shared out");
  }
  std::int64_t row = 0;
  for (Work* work : works) {
    hand_out(config, *work, slice(result, row, work->rows));
    row += work->rows;
  }
}

Run compute(const Session& session, const ModelConfig& config, const Works& works) {
  std::vector<Owned<OrtValue>> inputs;
  std::vector<const char*> input_names;
  std::vector<const OrtValue*> input_values;
  for (std::size_t i = 0; i < works.front()->inputs.size(); ++i) {
    inputs.push_back(stacked(session, works, i));
    input_names.push_back(works.front()->inputs[i].name.c_str());
    input_values.push_back(inputs.back().get());
  }
  const auto names = wanted(config, works);
  std::vector<const char*> output_names;
  for (const auto& name : names) output_names.push_back(name.c_str());

  Run run;
  for (const Work* work : works) run.rows += work->rows;
  run.works = works;
  run.start_ns = now_ns();
  auto values = session.run(input_names, input_values, output_names);
  run.end_ns = now_ns();
  for (std::size_t i = 0; i < names.size(); ++i) {
    share_out(config, works, describe(session, names[i], std::move(values[i])), run.rows);
  }
  return run;
}

// What was handed out before something went wrong must not be sent.
void fail(const Works& works, const Failure& failure) {
  for (Work* work : works) {
    work->outputs.clear();
    work->states.clear();
    work->failure = failure;
  }
}

// A run for all of them; without one, the reason is their failure.
std::optional<Run> try_compute(
    const Session& session, const ModelConfig& config, const Works& works) {
  try {
    return compute(session, config, works);
  } catch (const Failure& failure) {
    fail(works, failure);
  } catch (const std::exception& error) {  // no memory, mostly
    fail(works, {TRITONSERVER_ERROR_INTERNAL, std::string("the request failed: ") + error.what()});
  }
  return std::nullopt;
}

}  // namespace

std::vector<Run> execute(
    const Session& session, const ModelConfig& config, std::vector<Work>& works) {
  std::vector<Run> runs;
  const auto keep = [&](std::optional<Run> run) {
    if (run) runs.push_back(std::move(*run));
    return run.has_value();
  };
  for (const Works& group : grouped(works, config.batched())) {
    if (keep(try_compute(session, config, group)) || group.size() == 1) continue;
    for (Work* work : group) {
      work->failure.reset();
      keep(try_compute(session, config, {work}));
    }
  }
  return runs;
}

std::uint64_t now_ns() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return static_cast<std::uint64_t>(std::chrono::nanoseconds(now).count());
}

}  // namespace tritonfleet
