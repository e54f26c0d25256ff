// What config.pbtxt and the server's command line ask of this backend.
//
// Knows Triton's model configuration as JSON; not ONNX Runtime, and not the file of a model.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tensor_types.h"

namespace tritonfleet {

// One input or output as the model sees it: reshaped, and without the batch dimension.
struct TensorConfig {
  std::string name;
  std::string type_name;
  std::vector<std::int64_t> dims;
  bool ragged = false;  // requests of different shapes are put one after the other, flat
};

// A tensor that the sequence batcher keeps from one request of a sequence to the next.
struct StateConfig {
  TensorConfig input;
  TensorConfig output;
};

// An input that tells the model how a batch is made up.
struct BatchInput {
  enum class Kind {
    kElementCount,
    kAccumulatedElementCount,
    kAccumulatedElementCountWithZero,
    kMaxElementCountAsShape,
    kItemShape,
    kItemShapeFlatten,
  };
  Kind kind = Kind::kElementCount;
  std::vector<std::string> target_names;
  const TensorType* type = nullptr;
  std::string source_input;
};

// Outputs that are flat, and shared out in the shapes of an input.
struct BatchOutput {
  std::vector<std::string> target_names;
  std::string source_input;
};

// An entry of optimization.execution_accelerators.
struct Accelerator {
  std::string name;
  std::map<std::string, std::string> parameters;
};

// When constant operands are copied into the order in which the processor reads them fastest.
// That costs more than opening the model, and repays itself only after some runs.
enum class Packing {
  kEager,  // while the model is loaded, as ONNX Runtime alone does
  kLazy,   // in the background, once the model has been used enough
  kNever,
};

// The parameters that the official backend documents, with this backend's defaults: one thread
// for each request, because here many models share few cores.
struct SessionConfig {
  int intra_op_thread_count = 1;
  int inter_op_thread_count = 1;
  bool parallel = false;
  int graph_level = 0;
  bool memory_arena = true;
  bool memory_pattern = true;
  std::string arena_shrinkage = "cpu:0";
  Packing packing = Packing::kLazy;
  std::vector<std::pair<std::string, std::string>> entries;  // "session.*", handed on as they are
  std::vector<Accelerator> accelerators;
};

struct ModelConfig {
  std::string file_name;
  std::int64_t max_batch_size = 0;
  std::vector<TensorConfig> inputs;
  std::vector<TensorConfig> outputs;
  std::vector<TensorConfig> controls;  // inputs that the sequence batcher adds
  std::vector<StateConfig> states;
  std::vector<BatchInput> batch_inputs;
  std::vector<BatchOutput> batch_outputs;
  SessionConfig session;

  [[nodiscard]] bool batched() const noexcept { return max_batch_size > 0; }
  [[nodiscard]] bool is_ragged(std::string_view input) const;
  // The input in whose shapes an output is shared out; null for an ordinary output.
  [[nodiscard]] const std::string* scattered_like(std::string_view output) const;
};

// What the server's command line says: --backend-config=onnxruntime,KEY=VALUE.
struct BackendConfig {
  std::string library;
  std::string events;
  bool global_thread_pool = false;
  bool map_weights = false;
  int intra_op_thread_count = 0;
  int inter_op_thread_count = 0;
  int load_thread_count = 0;
  int default_max_batch_size = 4;
  Packing packing = Packing::kLazy;
};

// Both throw a Failure that names the entry which makes no sense.
ModelConfig parse_model_config(std::string_view json, const BackendConfig& backend);
BackendConfig parse_backend_config(std::string_view json);

}  // namespace tritonfleet
