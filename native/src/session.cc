#include "session.h"

#include <algorithm>
#include <charconv>
#include <cstring>

#include "accelerators.h"

namespace tritonfleet {
namespace {

void log(
    void* /*parameter*/, OrtLoggingLevel severity, const char* /*category*/, const char* /*log_id*/,
    const char* code_location, const char* message) {
  const auto level = severity >= OrtLoggingLevel::kError     ? TRITONSERVER_LOG_ERROR
                     : severity == OrtLoggingLevel::kWarning ? TRITONSERVER_LOG_WARN
                                                             : TRITONSERVER_LOG_VERBOSE;
  forget(TRITONSERVER_LogMessage(level, code_location, 0, message));
}

OrtGraphOptimizationLevel optimization_level(int graph_level) {
  // As the official backend counts them; 0 and everything else means all optimisations.
  switch (graph_level) {
    case -1:
      return OrtGraphOptimizationLevel::kBasic;
    case 1:
      return OrtGraphOptimizationLevel::kExtended;
    case 2:
      return OrtGraphOptimizationLevel::kNone;
    default:
      return OrtGraphOptimizationLevel::kAll;
  }
}

void set_threads(const Ort& ort, OrtSessionOptions* options, const SessionConfig& config) {
  if (config.intra_op_thread_count == 0) {
    ort(slot::DisablePerSessionThreads, options);  // every core: the pools that all models share
    return;
  }
  ort(slot::SetIntraOpNumThreads, options, config.intra_op_thread_count);
  ort(slot::SetInterOpNumThreads, options, std::max(config.inter_op_thread_count, 1));
}

Owned<OrtSessionOptions> session_options(
    const Environment& environment, const SessionConfig& config, const Opening& opening) {
  const Ort& ort = environment.ort();
  OrtSessionOptions* options = nullptr;
  ort(slot::CreateSessionOptions, &options);
  Owned owned(ort, slot::ReleaseSessionOptions, options);
  set_threads(ort, options, config);
  ort(slot::SetSessionExecutionMode, options,
      config.parallel ? OrtExecutionMode::kParallel : OrtExecutionMode::kSequential);
  ort(slot::SetSessionGraphOptimizationLevel, options, optimization_level(config.graph_level));
  if (!config.memory_arena) ort(slot::DisableCpuMemArena, options);
  if (!config.memory_pattern) ort(slot::DisableMemPattern, options);
  // A failing request gets its error; the log need not repeat it.
  ort(slot::SetSessionLogSeverityLevel, options, static_cast<int>(OrtLoggingLevel::kFatal));
  ort(slot::AddSessionConfigEntry, options, "session.model_external_initializers_file_folder_path",
      opening.directory.c_str());
  if (!opening.packed) ort(slot::AddSessionConfigEntry, options, "session.disable_prepacking", "1");
  for (const auto& [key, value] : config.entries) {
    ort(slot::AddSessionConfigEntry, options, key.c_str(), value.c_str());
  }
  append_accelerators(ort, options, config.accelerators);
  return owned;
}

OrtSession* create(
    const Environment& environment, OrtSessionOptions* options, const Opening& opening) {
  const Ort& ort = environment.ort();
  Cancellation none;
  Cancellation& cancellation = opening.cancellation != nullptr ? *opening.cancellation : none;
  cancellation.begin(ort, options);
  struct End {
    Cancellation& cancellation;
    ~End() { cancellation.end(); }
  } const end{cancellation};
  OrtSession* session = nullptr;
  ort(slot::CreateSessionFromArray, environment.env(), opening.model.data(), opening.model.size(),
      options, &session);
  return session;
}

Owned<OrtRunOptions> make_run_options(const Ort& ort, const SessionConfig& config) {
  OrtRunOptions* options = nullptr;
  ort(slot::CreateRunOptions, &options);
  Owned owned(ort, slot::ReleaseRunOptions, options);
  ort(slot::RunOptionsSetRunLogSeverityLevel, options, static_cast<int>(OrtLoggingLevel::kFatal));
  if (config.memory_arena) {
    // What a large request took goes back after it.
    ort(slot::AddRunConfigEntry, options, "memory.enable_memory_arena_shrinkage",
        config.arena_shrinkage.c_str());
  }
  return owned;
}

void describe_tensor(const Ort& ort, const OrtTensorTypeAndShapeInfo* info, Argument& argument) {
  OrtElementType element = OrtElementType::kUndefined;
  ort(slot::GetTensorElementType, info, &element);
  argument.type = find_type(&TensorType::ort, element);
  argument.description = "a tensor of ONNX type " + std::to_string(static_cast<int>(element));
  std::size_t rank = 0;
  ort(slot::GetDimensionsCount, info, &rank);
  argument.has_shape = rank > 0;
  argument.dims.resize(rank);
  ort(slot::GetDimensions, info, argument.dims.data(), rank);
}

using CountOf = slot::Fallible<const OrtSession*, std::size_t*>;
using NameOf = slot::Fallible<const OrtSession*, std::size_t, OrtAllocator*, char**>;
using TypeOf = slot::Fallible<const OrtSession*, std::size_t, OrtTypeInfo**>;

std::vector<Argument> arguments(
    const Ort& ort, const OrtSession* session, CountOf count_of, NameOf name_of, TypeOf type_of) {
  OrtAllocator* allocator = nullptr;
  ort(slot::GetAllocatorWithDefaultOptions, &allocator);
  std::size_t count = 0;
  ort(count_of, session, &count);
  std::vector<Argument> found(count);
  for (std::size_t i = 0; i < count; ++i) {
    char* name = nullptr;
    ort(name_of, session, i, allocator, &name);
    found[i].name = name;
    ort(slot::AllocatorFree, allocator, name);
    OrtTypeInfo* type = nullptr;
    ort(type_of, session, i, &type);
    const Owned owned(ort, slot::ReleaseTypeInfo, type);
    const OrtTensorTypeAndShapeInfo* tensor = nullptr;
    ort(slot::CastTypeInfoToTensorInfo, type, &tensor);
    if (tensor == nullptr) {
      found[i].description = "no tensor";
    } else {
      describe_tensor(ort, tensor, found[i]);
    }
  }
  return found;
}

}  // namespace

Environment::Environment(Ort ort, const BackendConfig& config) : ort_(std::move(ort)) {
  OrtThreadingOptions* threading = nullptr;
  ort_(slot::CreateThreadingOptions, &threading);
  const Owned owned(ort_, slot::ReleaseThreadingOptions, threading);
  ort_(slot::SetGlobalIntraOpNumThreads, threading, config.intra_op_thread_count);
  ort_(slot::SetGlobalInterOpNumThreads, threading, config.inter_op_thread_count);
  // Threads that spin while they wait would take the cores from other models.
  ort_(slot::SetGlobalSpinControl, threading, 0);
  OrtEnv* env = nullptr;
  ort_(slot::CreateEnvWithCustomLoggerAndGlobalThreadPools, log, nullptr, OrtLoggingLevel::kWarning,
       "onnxruntime", threading, &env);
  env_ = Owned(ort_, slot::ReleaseEnv, env);
}

void Cancellation::cancel(const Ort& ort) noexcept {
  const std::lock_guard lock(mutex_);
  cancelled_ = true;
  if (options_ == nullptr) return;
  try {
    ort(slot::SessionOptionsSetLoadCancellationFlag, options_, true);
  } catch (const Failure&) {
    // An ONNX Runtime that cannot be stopped ends by itself.
  }
}

void Cancellation::begin(const Ort& ort, OrtSessionOptions* options) {
  const std::lock_guard lock(mutex_);
  options_ = options;
  if (cancelled_) ort(slot::SessionOptionsSetLoadCancellationFlag, options, true);
}

void Cancellation::end() {
  const std::lock_guard lock(mutex_);
  options_ = nullptr;
}

Session::Session(
    const Environment& environment, const SessionConfig& config, Opening opening)
    : environment_(environment),
      weights_(std::move(opening.weights)),
      mapped_bytes_(opening.mapped_bytes) {
  const auto options = session_options(environment_, config, opening);
  if (weights_) weights_->hand_over(options.get());
  OrtSession* session = create(environment_, options.get(), opening);
  session_ = Owned(ort(), slot::ReleaseSession, session);
  OrtMemoryInfo* memory_info = nullptr;
  ort()(slot::CreateCpuMemoryInfo, OrtAllocatorType::kArena, OrtMemoryType::kDefault,
        &memory_info);
  memory_info_ = Owned(ort(), slot::ReleaseMemoryInfo, memory_info);
  OrtAllocator* allocator = nullptr;
  ort()(slot::CreateAllocator, session, memory_info, &allocator);
  allocator_ = Owned(ort(), slot::ReleaseAllocator, allocator);
  run_options_ = make_run_options(ort(), config);
}

std::vector<Owned<OrtValue>> Session::run(
    const std::vector<const char*>& input_names, const std::vector<const OrtValue*>& inputs,
    const std::vector<const char*>& output_names) const {
  std::vector<OrtValue*> values(output_names.size(), nullptr);
  ort()(slot::Run, session_.get(), run_options_.get(), input_names.data(), inputs.data(),
        inputs.size(), output_names.data(), output_names.size(), values.data());
  std::vector<Owned<OrtValue>> outputs;
  outputs.reserve(values.size());
  for (OrtValue* value : values) outputs.emplace_back(ort(), slot::ReleaseValue, value);
  return outputs;
}

Owned<OrtValue> Session::allocate(
    const TensorType& type, const std::vector<std::int64_t>& shape) const {
  OrtValue* value = nullptr;
  ort()(slot::CreateTensorAsOrtValue, allocator_.get(), shape.data(), shape.size(), type.ort,
        &value);
  return {ort(), slot::ReleaseValue, value};
}

Owned<OrtValue> Session::borrow(
    const TensorType& type, const std::vector<std::int64_t>& shape, std::string_view bytes) const {
  OrtValue* value = nullptr;
  // ONNX Runtime does not write to inputs.
  ort()(slot::CreateTensorWithDataAsOrtValue, memory_info_.get(), const_cast<char*>(bytes.data()),
        bytes.size(), shape.data(), shape.size(), type.ort, &value);
  return {ort(), slot::ReleaseValue, value};
}

void* Session::data(const Owned<OrtValue>& tensor) const {
  void* data = nullptr;
  ort()(slot::GetTensorMutableData, tensor.get(), &data);
  return data;
}

TensorInfo Session::info(const Owned<OrtValue>& tensor) const {
  OrtValueType value_type = OrtValueType::kUnknown;
  ort()(slot::GetValueType, tensor.get(), &value_type);
  if (value_type != OrtValueType::kTensor) return {};
  OrtTensorTypeAndShapeInfo* info = nullptr;
  ort()(slot::GetTensorTypeAndShape, tensor.get(), &info);
  const Owned owned(ort(), slot::ReleaseTensorTypeAndShapeInfo, info);
  Argument described;
  describe_tensor(ort(), info, described);
  return {described.type, described.dims};
}

void Session::set_text(
    const Owned<OrtValue>& tensor, std::size_t index, std::string_view element) const {
  char* target = nullptr;
  ort()(slot::GetResizedStringTensorElementBuffer, tensor.get(), index, element.size(), &target);
  if (!element.empty()) std::memcpy(target, element.data(), element.size());
}

std::vector<std::string> Session::text(const Owned<OrtValue>& tensor, std::size_t count) const {
  std::size_t size = 0;
  ort()(slot::GetStringTensorDataLength, tensor.get(), &size);
  std::string joined(size, '\0');
  std::vector<std::size_t> offsets(count);
  ort()(slot::GetStringTensorContent, tensor.get(), joined.data(), size, offsets.data(), count);
  std::vector<std::string> elements;
  elements.reserve(count);
  for (std::size_t i = 0; i < count; ++i) {
    const std::size_t end = i + 1 < count ? offsets[i + 1] : size;
    elements.push_back(joined.substr(offsets[i], end - offsets[i]));
  }
  return elements;
}

Signature Session::signature() const {
  return {
      arguments(
          ort(), session_.get(), slot::SessionGetInputCount, slot::SessionGetInputName,
          slot::SessionGetInputTypeInfo),
      arguments(
          ort(), session_.get(), slot::SessionGetOverridableInitializerCount,
          slot::SessionGetOverridableInitializerName,
          slot::SessionGetOverridableInitializerTypeInfo),
      arguments(
          ort(), session_.get(), slot::SessionGetOutputCount, slot::SessionGetOutputName,
          slot::SessionGetOutputTypeInfo)};
}

std::uint64_t Session::held_bytes() const {
  OrtKeyValuePairs* pairs = nullptr;
  ort()(slot::AllocatorGetStats, allocator_.get(), &pairs);
  const Owned owned(ort(), slot::ReleaseKeyValuePairs, pairs);
  // Absent without an arena: what a run takes is then given back when it ends.
  const auto statistic = [&](const char* key) {
    std::uint64_t bytes = 0;
    if (const char* text = ort()(slot::GetKeyValue, pairs, key); text != nullptr) {
      std::from_chars(text, text + std::strlen(text), bytes);
    }
    return bytes;
  };
  // The arena shrinks after a run, and will need as much again for the next one.
  const auto arena = std::max(statistic("TotalAllocated"), statistic("MaxInUse"));
  // For mapped weights the arena sets room aside, too, which it never touches.
  return weights_ ? arena + weights_->byte_size() : std::max(arena, mapped_bytes_);
}

}  // namespace tritonfleet
