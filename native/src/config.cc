#include "config.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>

#include "failure.h"

namespace tritonfleet {
namespace {

using Json = nlohmann::json;

const Json kNothing;

const Json& member(const Json& object, const std::string& key) {
  if (!object.is_object()) return kNothing;
  const auto found = object.find(key);
  return found == object.end() ? kNothing : *found;
}

std::string text_of(const Json& value, const std::string& otherwise = "") {
  return value.is_string() ? value.get<std::string>() : otherwise;
}

bool truth_of(const Json& value) { return value.is_boolean() && value.get<bool>(); }

// Protobuf's JSON has 64-bit integers as strings, Triton turns some of them into numbers.
std::int64_t number_of(const Json& value, std::int64_t otherwise = 0) {
  if (value.is_number_integer()) return value.get<std::int64_t>();
  std::int64_t number = otherwise;
  const std::string text = text_of(value);
  std::from_chars(text.data(), text.data() + text.size(), number);
  return number;
}

std::string trimmed(const std::string& text) {
  const auto inside = [](unsigned char c) { return std::isspace(c) == 0; };
  const auto first = std::find_if(text.begin(), text.end(), inside);
  const auto last = std::find_if(text.rbegin(), text.rend(), inside).base();
  return first < last ? std::string(first, last) : std::string();
}

Json parse(std::string_view text, const char* what) {
  auto json = Json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded()) throw invalid(std::string(what) + " is no JSON");
  return json;
}

// Where settings stand, and how an error names the place.
struct Settings {
  std::function<std::optional<std::string>(const std::string& key)> find;
  const char* kind;
  const char* place;

  [[nodiscard]] Failure wrong(
      const std::string& key, const std::string& text, const std::string& expected) const {
    return invalid(
        std::string(kind) + " '" + key + "' is '" + text + "' " + place + "; it must be " +
        expected);
  }

  [[nodiscard]] int number(const std::string& key, int otherwise, int largest = 1 << 20) const {
    const auto text = find(key);
    if (!text) return otherwise;
    int number = -1;
    const auto end = std::from_chars(text->data(), text->data() + text->size(), number).ptr;
    if (text->empty() || end != text->data() + text->size() || number < 0 || number > largest) {
      throw wrong(key, *text, largest == 1 ? "0 or 1" : "a whole number");
    }
    return number;
  }

  [[nodiscard]] bool flag(const std::string& key, bool otherwise) const {
    auto text = find(key);
    if (!text) return otherwise;
    std::string lower = *text;
    std::transform(lower.begin(), lower.end(), lower.begin(), [](unsigned char c) {
      return static_cast<char>(std::tolower(c));
    });
    if (lower == "1" || lower == "true") return true;
    if (lower == "0" || lower == "false") return false;
    throw wrong(key, *text, "0 or 1");
  }

  [[nodiscard]] Packing packing(const std::string& key, Packing otherwise) const {
    const auto text = find(key);
    if (!text) return otherwise;
    if (*text == "eager") return Packing::kEager;
    if (*text == "lazy") return Packing::kLazy;
    if (*text == "never") return Packing::kNever;
    throw wrong(key, *text, "eager, lazy or never");
  }
};

std::vector<std::int64_t> dims_of(const Json& tensor) {
  const Json& reshape = member(tensor, "reshape");
  const Json& dims = reshape.is_object() ? member(reshape, "shape") : member(tensor, "dims");
  std::vector<std::int64_t> found;
  for (const auto& dim : dims) found.push_back(number_of(dim));
  return found;
}

TensorConfig tensor_of(const Json& tensor, const char* name = "name") {
  return {
      text_of(member(tensor, name)), text_of(member(tensor, "data_type")), dims_of(tensor),
      truth_of(member(tensor, "allow_ragged_batch"))};
}

std::vector<TensorConfig> tensors_of(const Json& tensors) {
  std::vector<TensorConfig> found;
  for (const auto& tensor : tensors) found.push_back(tensor_of(tensor));
  return found;
}

std::vector<std::string> names_of(const Json& names) {
  std::vector<std::string> found;
  for (const auto& name : names) found.push_back(text_of(name));
  return found;
}

// Every kind there is has exactly one source.
std::string source_of(const Json& entry) {
  const auto names = names_of(member(entry, "source_input"));
  if (names.size() == 1) return names.front();
  throw invalid("a batch_input or batch_output in config.pbtxt must have one source_input");
}

constexpr std::array<std::pair<std::string_view, BatchInput::Kind>, 6> kBatchInputKinds{{
    {"BATCH_ELEMENT_COUNT", BatchInput::Kind::kElementCount},
    {"BATCH_ACCUMULATED_ELEMENT_COUNT", BatchInput::Kind::kAccumulatedElementCount},
    {"BATCH_ACCUMULATED_ELEMENT_COUNT_WITH_ZERO",
     BatchInput::Kind::kAccumulatedElementCountWithZero},
    {"BATCH_MAX_ELEMENT_COUNT_AS_SHAPE", BatchInput::Kind::kMaxElementCountAsShape},
    {"BATCH_ITEM_SHAPE", BatchInput::Kind::kItemShape},
    {"BATCH_ITEM_SHAPE_FLATTEN", BatchInput::Kind::kItemShapeFlatten},
}};

BatchInput batch_input_of(const Json& entry) {
  // Protobuf leaves out what has the default value.
  const std::string kind = text_of(member(entry, "kind"), "BATCH_ELEMENT_COUNT");
  const auto* found = std::find_if(
      kBatchInputKinds.begin(), kBatchInputKinds.end(),
      [&](const auto& known) { return known.first == kind; });
  if (found == kBatchInputKinds.end()) {
    throw invalid("batch_input in config.pbtxt has kind '" + kind + "', which is not known");
  }
  const std::string type = text_of(member(entry, "data_type"));
  if (type != "TYPE_INT32" && type != "TYPE_INT64" && type != "TYPE_FP32") {
    throw invalid(
        "batch_input in config.pbtxt has data_type '" + type +
        "'; it must be TYPE_INT32, TYPE_INT64 or TYPE_FP32");
  }
  return {
      found->second, names_of(member(entry, "target_name")),
      find_type(&TensorType::config_name, std::string_view(type)), source_of(entry)};
}

std::vector<BatchInput> batch_inputs_of(const Json& entries) {
  std::vector<BatchInput> found;
  for (const auto& entry : entries) found.push_back(batch_input_of(entry));
  return found;
}

std::vector<BatchOutput> batch_outputs_of(const Json& entries) {
  std::vector<BatchOutput> found;
  for (const auto& entry : entries) {
    found.push_back({names_of(member(entry, "target_name")), source_of(entry)});
  }
  return found;
}

std::string control_type(const Json& control) {
  for (const auto& [key, type] :
       {std::pair{"int32_false_true", "TYPE_INT32"}, std::pair{"fp32_false_true", "TYPE_FP32"},
        std::pair{"bool_false_true", "TYPE_BOOL"}}) {
    if (!member(control, key).empty()) return type;
  }
  return text_of(member(control, "data_type"));
}

std::vector<TensorConfig> controls_of(const Json& sequence) {
  std::vector<TensorConfig> found;
  for (const auto& input : member(sequence, "control_input")) {
    const Json& controls = member(input, "control");
    const std::string type = controls.empty() ? "" : control_type(controls[0]);
    found.push_back({text_of(member(input, "name")), type, {1}, false});
  }
  return found;
}

std::vector<StateConfig> states_of(const Json& sequence) {
  std::vector<StateConfig> found;
  for (const auto& state : member(sequence, "state")) {
    found.push_back({tensor_of(state, "input_name"), tensor_of(state, "output_name")});
  }
  return found;
}

std::vector<Accelerator> accelerators_of(const Json& optimization) {
  std::vector<Accelerator> found;
  const Json& accelerators = member(optimization, "execution_accelerators");
  for (const char* kind : {"gpu_execution_accelerator", "cpu_execution_accelerator"}) {
    for (const auto& entry : member(accelerators, kind)) {
      Accelerator accelerator{text_of(member(entry, "name")), {}};
      const Json& parameters = member(entry, "parameters");
      for (auto each = parameters.begin(); each != parameters.end(); ++each) {
        accelerator.parameters[each.key()] = text_of(each.value());
      }
      found.push_back(std::move(accelerator));
    }
  }
  return found;
}

std::vector<std::pair<std::string, std::string>> session_entries(const Json& parameters) {
  std::vector<std::pair<std::string, std::string>> found;
  if (!parameters.is_object()) return found;
  for (auto each = parameters.begin(); each != parameters.end(); ++each) {
    if (each.key().rfind("session.", 0) == 0) {
      found.emplace_back(each.key(), trimmed(text_of(member(each.value(), "string_value"))));
    }
  }
  return found;
}

SessionConfig session_of(const Json& config, const BackendConfig& backend) {
  const Json& parameters = member(config, "parameters");
  const auto find = [&](const std::string& key) -> std::optional<std::string> {
    const Json& value = member(member(parameters, key), "string_value");
    return value.is_string() ? std::optional(trimmed(value.get<std::string>())) : std::nullopt;
  };
  const Settings settings{find, "parameter", "in config.pbtxt"};
  const Json& optimization = member(config, "optimization");
  SessionConfig session;
  session.intra_op_thread_count = settings.number("intra_op_thread_count", 1);
  session.inter_op_thread_count = settings.number("inter_op_thread_count", 1);
  if (backend.global_thread_pool) session.intra_op_thread_count = session.inter_op_thread_count = 0;
  session.parallel = settings.number("execution_mode", 0, 1) == 1;
  session.graph_level =
      static_cast<int>(number_of(member(member(optimization, "graph"), "level")));
  session.memory_arena = settings.flag("enable_mem_arena", true);
  session.memory_pattern = settings.flag("enable_mem_pattern", true);
  session.arena_shrinkage =
      find("memory.enable_memory_arena_shrinkage").value_or(session.arena_shrinkage);
  session.packing = settings.packing("weight_packing", backend.packing);
  session.entries = session_entries(parameters);
  session.accelerators = accelerators_of(optimization);
  return session;
}

}  // namespace

bool ModelConfig::is_ragged(std::string_view input) const {
  return std::any_of(inputs.begin(), inputs.end(), [&](const TensorConfig& tensor) {
    return tensor.ragged && tensor.name == input;
  });
}

const std::string* ModelConfig::scattered_like(std::string_view output) const {
  for (const auto& each : batch_outputs) {
    const auto& names = each.target_names;
    if (std::find(names.begin(), names.end(), output) != names.end()) return &each.source_input;
  }
  return nullptr;
}

ModelConfig parse_model_config(std::string_view json, const BackendConfig& backend) {
  const Json config = parse(json, "the model configuration");
  const Json& sequence = member(config, "sequence_batching");
  ModelConfig model;
  model.file_name = text_of(member(config, "default_model_filename"));
  if (model.file_name.empty()) model.file_name = "model.onnx";
  model.max_batch_size = number_of(member(config, "max_batch_size"));
  model.inputs = tensors_of(member(config, "input"));
  model.outputs = tensors_of(member(config, "output"));
  model.controls = controls_of(sequence);
  model.states = states_of(sequence);
  model.batch_inputs = batch_inputs_of(member(config, "batch_input"));
  model.batch_outputs = batch_outputs_of(member(config, "batch_output"));
  model.session = session_of(config, backend);
  return model;
}

BackendConfig parse_backend_config(std::string_view json) {
  const Json config = parse(json, "the backend configuration");
  const Json& cmdline = member(config, "cmdline");
  const auto find = [&](const std::string& key) -> std::optional<std::string> {
    const Json& value = member(cmdline, key);
    return value.is_string() ? std::optional(trimmed(value.get<std::string>())) : std::nullopt;
  };
  const Settings settings{find, "backend config", "on the server's command line"};
  BackendConfig backend;
  backend.library = find("library").value_or("");
  backend.events = find("events").value_or("");
  backend.global_thread_pool = settings.flag("enable-global-threadpool", false);
  backend.map_weights = settings.flag("map-weights", false);
  backend.intra_op_thread_count = settings.number("intra_op_thread_count", 0);
  backend.inter_op_thread_count = settings.number("inter_op_thread_count", 0);
  backend.load_thread_count = settings.number("load_thread_count", 0);
  backend.default_max_batch_size = settings.number("default-max-batch-size", 4);
  backend.packing = settings.packing("weight-packing", Packing::kLazy);
  return backend;
}

}  // namespace tritonfleet
