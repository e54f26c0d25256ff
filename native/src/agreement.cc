#include "agreement.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "joined.h"

namespace tritonfleet {
namespace {

using Json = nlohmann::json;
using Dims = std::vector<std::int64_t>;

std::string written(const Dims& dims) {
  std::vector<std::string> numbers;
  for (const auto dim : dims) numbers.push_back(std::to_string(dim));
  return "[" + joined(numbers, ", ") + "]";
}

Dims full_dims(const TensorConfig& tensor, bool batched) {
  if (tensor.ragged) return {-1};
  Dims dims = tensor.dims;
  if (batched) dims.insert(dims.begin(), -1);
  return dims;
}

bool shapes_agree(const Dims& dims, const Argument& argument) {
  if (!argument.has_shape) return true;
  return std::equal(
      dims.begin(), dims.end(), argument.dims.begin(), argument.dims.end(),
      [](std::int64_t told, std::int64_t actual) { return actual < 0 || actual == told; });
}

std::string names_of(const std::vector<Argument>& arguments) {
  std::vector<std::string> names;
  for (const auto& argument : arguments) names.push_back(argument.name);
  return names.empty() ? "none" : joined(names, ", ");
}

class Comparison {
 public:
  explicit Comparison(bool batched) : batched_(batched) {}

  void compare(
      const std::string& kind, const TensorConfig& tensor, const std::vector<Argument>& arguments) {
    const auto found = std::find_if(arguments.begin(), arguments.end(), [&](const auto& argument) {
      return argument.name == tensor.name;
    });
    if (found == arguments.end()) {
      problems.push_back(
          "it has no " + kind + " '" + tensor.name + "' (it has " + names_of(arguments) + ")");
      return;
    }
    const std::string subject = kind + " '" + tensor.name + "'";
    if (found->type == nullptr) {
      problems.push_back(
          subject + " is " + found->description + ", which this backend cannot carry");
      return;
    }
    if (found->type->config_name != tensor.type_name) {
      problems.push_back(
          subject + " is " + std::string(found->type->config_name) + ", not " + tensor.type_name);
    }
    const Dims dims = full_dims(tensor, batched_);
    if (!shapes_agree(dims, *found)) {
      problems.push_back(
          subject + " has shape " + written(found->dims) + ", not " + written(dims));
    }
  }

  std::vector<std::string> problems;

 private:
  bool batched_;
};

bool is_configured(const ModelConfig& config, const std::string& name) {
  const auto has = [&](const std::vector<TensorConfig>& tensors) {
    return std::any_of(tensors.begin(), tensors.end(), [&](const auto& t) {
      return t.name == name;
    });
  };
  return has(config.inputs) || has(config.controls) ||
         std::any_of(
             config.states.begin(), config.states.end(),
             [&](const auto& state) { return state.input.name == name; }) ||
         std::any_of(
             config.batch_inputs.begin(), config.batch_inputs.end(), [&](const auto& input) {
               const auto& names = input.target_names;
               return std::find(names.begin(), names.end(), name) != names.end();
             });
}

// Whether every input and output begins with a dimension that may be anything.
bool can_batch(const Signature& signature) {
  const auto open = [](const std::vector<Argument>& arguments) {
    return std::all_of(arguments.begin(), arguments.end(), [](const auto& argument) {
      return argument.has_shape && argument.dims.front() < 0;
    });
  };
  return !signature.inputs.empty() && open(signature.inputs) && open(signature.outputs);
}

Json described(const std::vector<Argument>& arguments, bool batched) {
  Json tensors = Json::array();
  for (const auto& argument : arguments) {
    if (argument.type == nullptr) continue;
    Dims dims(argument.dims.begin() + (batched ? 1 : 0), argument.dims.end());
    Json tensor{{"name", argument.name}, {"data_type", argument.type->config_name}};
    if (dims.empty()) {
      // Triton has no tensor without dimensions: a scalar is one element there.
      tensor["dims"] = {1};
      tensor["reshape"] = {{"shape", Json::array()}};
    } else {
      tensor["dims"] = dims;
    }
    tensors.push_back(std::move(tensor));
  }
  return tensors;
}

}  // namespace

std::vector<std::string> contradictions(const ModelConfig& config, const Signature& signature) {
  Comparison comparison(config.batched());
  for (const auto& input : signature.inputs) {
    if (!is_configured(config, input.name)) {
      comparison.problems.push_back(
          "it needs input '" + input.name + "', which config.pbtxt does not have");
    }
  }
  std::vector<Argument> inputs = signature.inputs;
  inputs.insert(
      inputs.end(), signature.optional_inputs.begin(), signature.optional_inputs.end());
  for (const auto& tensor : config.inputs) comparison.compare("input", tensor, inputs);
  for (const auto& tensor : config.controls) comparison.compare("input", tensor, inputs);
  for (TensorConfig tensor : config.outputs) {
    tensor.ragged = config.scattered_like(tensor.name) != nullptr;
    comparison.compare("output", tensor, signature.outputs);
  }
  for (const auto& state : config.states) {
    comparison.compare("input", state.input, inputs);
    comparison.compare("output", state.output, signature.outputs);
  }
  return comparison.problems;
}

std::string completed(
    const std::string& config_json, const Signature& signature, int default_max_batch_size) {
  Json config = Json::parse(config_json);
  const auto lacks = [&](const char* key) {
    return !config.contains(key) || config[key].empty();
  };
  const bool bare = lacks("input") && lacks("output");
  if (bare && config.value("max_batch_size", 0) == 0 && can_batch(signature)) {
    config["max_batch_size"] = default_max_batch_size;
    const bool scheduled = config.contains("dynamic_batching") ||
                           config.contains("sequence_batching") ||
                           config.contains("ensemble_scheduling");
    if (default_max_batch_size > 1 && !scheduled) config["dynamic_batching"] = Json::object();
  }
  const bool batched = config.value("max_batch_size", 0) > 0;
  if (lacks("input")) config["input"] = described(signature.inputs, batched);
  if (lacks("output")) config["output"] = described(signature.outputs, batched);
  return config.dump();
}

}  // namespace tritonfleet
