// What Triton calls: a backend, its models, their instances.
//
// Every call ends in an error for Triton or in none; no exception leaves this file.
#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#include <string>

#include "agreement.h"
#include "background.h"
#include "clock.h"
#include "config.h"
#include "events.h"
#include "execution.h"
#include "failure.h"
#include "model.h"
#include "regions.h"
#include "releaser.h"
#include "session.h"
#include "work.h"

namespace tritonfleet {
namespace {

// Bounds how many models are opened at once, so that opening does not take every core from models
// that serve.
class Turnstile {
 public:
  explicit Turnstile(int width) : width_(width) {}

  // Holds a place until it goes out of scope.
  class Pass {
   public:
    explicit Pass(Turnstile& turnstile) : turnstile_(turnstile) {
      std::unique_lock lock(turnstile_.mutex_);
      turnstile_.freed_.wait(lock, [&] {
        return turnstile_.width_ == 0 || turnstile_.inside_ < turnstile_.width_;
      });
      ++turnstile_.inside_;
    }
    ~Pass() {
      {
        const std::lock_guard lock(turnstile_.mutex_);
        --turnstile_.inside_;
      }
      turnstile_.freed_.notify_one();
    }
    Pass(const Pass&) = delete;
    Pass& operator=(const Pass&) = delete;

   private:
    Turnstile& turnstile_;
  };

 private:
  const int width_;  // 0 lets everybody in
  int inside_ = 0;
  std::mutex mutex_;
  std::condition_variable freed_;
};

struct BackendState {
  explicit BackendState(const BackendConfig& given)
      : config(given),
        events(given.events),
        environment(Ort::open(given.library), given),
        loads(given.load_thread_count) {}

  const BackendConfig config;
  const Events events;
  const Environment environment;
  Regions regions{background};
  Turnstile loads;
  Releaser releaser;
  Background background;  // last: it ends before what its jobs use
};

struct ModelState {
  BackendState& backend;
  ModelConfig config;
  std::shared_ptr<Model> model;
};

void say(TRITONSERVER_LogLevel level, const std::string& text) {
  forget(TRITONSERVER_LogMessage(level, __FILE__, __LINE__, text.c_str()));
}

// Runs the body of an entry point; whatever it throws becomes an error for Triton.
template <typename Body>
TRITONSERVER_Error* guarded(Body body) noexcept {
  try {
    body();
    return nullptr;
  } catch (const Failure& failure) {
    return failure.to_triton();
  } catch (const std::exception& error) {
    return TRITONSERVER_ErrorNew(TRITONSERVER_ERROR_INTERNAL, error.what());
  }
}

std::string json_of(TRITONSERVER_Message* message) {
  const char* base = nullptr;
  std::size_t size = 0;
  check(TRITONSERVER_MessageSerializeToJson(message, &base, &size));
  return {base, size};
}

void require_api() {
  std::uint32_t major = 0;
  std::uint32_t minor = 0;
  check(TRITONBACKEND_ApiVersion(&major, &minor));
  if (major == TRITONBACKEND_API_VERSION_MAJOR && minor >= TRITONBACKEND_API_VERSION_MINOR) return;
  throw Failure(
      TRITONSERVER_ERROR_UNSUPPORTED,
      "this server's backend API is version " + std::to_string(major) + "." +
          std::to_string(minor) + ", and the onnxruntime backend needs 1.15 or newer");
}

BackendState& backend_of(TRITONBACKEND_Model* model) {
  TRITONBACKEND_Backend* backend = nullptr;
  check(TRITONBACKEND_ModelBackend(model, &backend));
  void* state = nullptr;
  check(TRITONBACKEND_BackendState(backend, &state));
  return *static_cast<BackendState*>(state);
}

ModelState* state_of(TRITONBACKEND_Model* model) {
  void* state = nullptr;
  check(TRITONBACKEND_ModelState(model, &state));
  return static_cast<ModelState*>(state);
}

std::string config_json(TRITONBACKEND_Model* model) {
  TRITONSERVER_Message* message = nullptr;
  check(TRITONBACKEND_ModelConfig(model, 1, &message));
  std::string json = json_of(message);
  check(TRITONSERVER_MessageDelete(message));
  return json;
}

void set_config(TRITONBACKEND_Model* model, const std::string& json) {
  TRITONSERVER_Message* message = nullptr;
  check(TRITONSERVER_MessageNewFromSerializedJson(&message, json.data(), json.size()));
  TRITONSERVER_Error* error = TRITONBACKEND_ModelSetConfig(model, 1, message);
  forget(TRITONSERVER_MessageDelete(message));
  check(error);
}

Identity identity_of(TRITONBACKEND_Model* model) {
  const char* name = nullptr;
  Identity identity;
  check(TRITONBACKEND_ModelName(model, &name));
  check(TRITONBACKEND_ModelVersion(model, &identity.version));
  identity.name = name;
  return identity;
}

std::string version_directory(TRITONBACKEND_Model* model, std::uint64_t version) {
  TRITONBACKEND_ArtifactType type = TRITONBACKEND_ARTIFACT_FILESYSTEM;
  const char* location = nullptr;
  check(TRITONBACKEND_ModelRepository(model, &type, &location));
  return std::string(location) + "/" + std::to_string(version);
}

struct AttributesDeleter {
  void operator()(TRITONSERVER_BufferAttributes* attributes) const {
    forget(TRITONSERVER_BufferAttributesDelete(attributes));
  }
};

void report_memory(TRITONBACKEND_Model* model, std::uint64_t bytes) {
  TRITONSERVER_BufferAttributes* usage = nullptr;
  check(TRITONSERVER_BufferAttributesNew(&usage));
  const std::unique_ptr<TRITONSERVER_BufferAttributes, AttributesDeleter> owned(usage);
  check(TRITONSERVER_BufferAttributesSetMemoryType(usage, TRITONSERVER_MEMORY_CPU));
  check(TRITONSERVER_BufferAttributesSetMemoryTypeId(usage, 0));
  check(TRITONSERVER_BufferAttributesSetByteSize(usage, bytes));
  check(TRITONBACKEND_ModelReportMemoryUsage(model, &usage, 1));  // which takes a copy
}

void complete_config(TRITONBACKEND_Model* triton_model, ModelState& state) {
  bool wanted = false;
  check(TRITONBACKEND_ModelAutoCompleteConfig(triton_model, &wanted));
  if (!wanted) return;
  const BackendConfig& backend = state.backend.config;
  const auto signature = state.model->session()->signature();
  set_config(
      triton_model,
      completed(config_json(triton_model), signature, backend.default_max_batch_size));
  state.config = parse_model_config(config_json(triton_model), backend);
}

std::unique_ptr<ModelState> open_model(TRITONBACKEND_Model* triton_model) {
  BackendState& backend = backend_of(triton_model);
  const Identity identity = identity_of(triton_model);
  auto state = std::make_unique<ModelState>(
      ModelState{backend, parse_model_config(config_json(triton_model), backend.config), nullptr});
  const Turnstile::Pass pass(backend.loads);
  const Surroundings surroundings{
      backend.config, backend.environment, backend.events, backend.background, backend.regions};
  state->model = std::make_shared<Model>(
      surroundings, identity, state->config,
      version_directory(triton_model, identity.version));
  complete_config(triton_model, *state);
  state->model->check(state->config);
  report_memory(triton_model, state->model->held_bytes());
  state->model->announce();
  return state;
}

void require_host_instance(TRITONBACKEND_ModelInstance* instance) {
  TRITONSERVER_InstanceGroupKind kind = TRITONSERVER_INSTANCEGROUPKIND_CPU;
  const char* name = nullptr;
  check(TRITONBACKEND_ModelInstanceKind(instance, &kind));
  check(TRITONBACKEND_ModelInstanceName(instance, &name));
  if (kind != TRITONSERVER_INSTANCEGROUPKIND_GPU) return;
  throw Failure(
      TRITONSERVER_ERROR_UNSUPPORTED,
      std::string("instance '") + name +
          "' is of KIND_GPU, and this onnxruntime backend runs models on the host's processors; "
          "leave 'kind' out of instance_group, or use the backend of Triton's own container");
}

struct Report {
  TRITONBACKEND_ModelInstance* instance;
  std::uint64_t exec_start_ns;
  std::uint64_t exec_end_ns;

  void batch(const Run& run) const {
    forget(TRITONBACKEND_ModelInstanceReportBatchStatistics(
        instance, static_cast<std::uint64_t>(run.rows), exec_start_ns, run.start_ns, run.end_ns,
        exec_end_ns));
    for (const Work* work : run.works) request(*work, run.start_ns, run.end_ns);
  }

  void request(const Work& work, std::uint64_t start_ns, std::uint64_t end_ns) const {
    forget(TRITONBACKEND_ModelInstanceReportStatistics(
        instance, work.request, !work.failure, exec_start_ns, start_ns, end_ns, exec_end_ns));
  }
};

void report(
    const Report& report, const std::vector<Run>& runs, const std::vector<Work>& works) {
  for (const Run& run : runs) report.batch(run);
  for (const Work& work : works) {
    const bool ran = std::any_of(runs.begin(), runs.end(), [&](const Run& run) {
      return std::find(run.works.begin(), run.works.end(), &work) != run.works.end();
    });
    if (!ran) report.request(work, report.exec_start_ns, report.exec_end_ns);
  }
}

// What may follow once the answers are out; no failure of it may reach Triton, which would answer
// once more.
void follow_up(ModelState& state, const std::vector<Run>& runs) noexcept {
  try {
    for (const Run& run : runs) {
      state.model->ran(std::chrono::nanoseconds(run.end_ns - run.start_ns));
    }
    if (!state.model->wants_packing()) return;
    // Weakly: a model must not stay because it waits to be packed.
    state.backend.background.post([waiting = std::weak_ptr(state.model)] {
      if (const auto model = waiting.lock()) model->pack();
    });
  } catch (const std::exception& error) {
    say(TRITONSERVER_LOG_WARN, error.what());
  }
}

void answer(
    TRITONBACKEND_ModelInstance* instance, ModelState& state, TRITONBACKEND_Request** requests,
    std::uint32_t count) {
  const std::uint64_t exec_start_ns = now_ns();
  std::vector<Work> works;
  works.reserve(count);
  for (std::uint32_t i = 0; i < count; ++i) {
    works.push_back(read_work(requests[i], state.config.batched()));
  }
  const auto session = state.model->session();
  const auto runs = execute(*session, state.config, works);
  for (Work& work : works) prepare_response(work);
  // Before anything is sent: whoever has an answer finds it counted.
  report({instance, exec_start_ns, now_ns()}, runs, works);
  for (Work& work : works) send_response(work);
  follow_up(state, runs);
}

}  // namespace
}  // namespace tritonfleet

using namespace tritonfleet;

extern "C" {

TRITONSERVER_Error* TRITONBACKEND_Initialize(TRITONBACKEND_Backend* backend) {
  return guarded([&] {
    require_api();
    TRITONSERVER_Message* message = nullptr;
    check(TRITONBACKEND_BackendConfig(backend, &message));
    auto state = std::make_unique<BackendState>(parse_backend_config(json_of(message)));
    const std::string& version = state->environment.ort().version();
    say(TRITONSERVER_LOG_INFO, "onnxruntime backend of tritonfleet, on ONNX Runtime " + version);
    check(TRITONBACKEND_BackendSetState(backend, state.release()));
  });
}

TRITONSERVER_Error* TRITONBACKEND_Finalize(TRITONBACKEND_Backend* backend) {
  return guarded([&] {
    void* state = nullptr;
    check(TRITONBACKEND_BackendState(backend, &state));
    delete static_cast<BackendState*>(state);
  });
}

TRITONSERVER_Error* TRITONBACKEND_ModelInitialize(TRITONBACKEND_Model* model) {
  return guarded([&] {
    auto state = open_model(model);
    check(TRITONBACKEND_ModelSetState(model, state.release()));
  });
}

TRITONSERVER_Error* TRITONBACKEND_ModelFinalize(TRITONBACKEND_Model* model) {
  return guarded([&] {
    const std::unique_ptr<ModelState> state(state_of(model));
    if (state != nullptr) state->model->give_up_packing();
  });
}

TRITONSERVER_Error* TRITONBACKEND_ModelInstanceInitialize(TRITONBACKEND_ModelInstance* instance) {
  return guarded([&] {
    require_host_instance(instance);
    TRITONBACKEND_Model* model = nullptr;
    check(TRITONBACKEND_ModelInstanceModel(instance, &model));
    check(TRITONBACKEND_ModelInstanceSetState(instance, state_of(model)));
  });
}

TRITONSERVER_Error* TRITONBACKEND_ModelInstanceFinalize(TRITONBACKEND_ModelInstance* /*instance*/) {
  return nullptr;  // what an instance uses belongs to its model
}

TRITONSERVER_Error* TRITONBACKEND_ModelInstanceExecute(
    TRITONBACKEND_ModelInstance* instance, TRITONBACKEND_Request** requests, std::uint32_t count) {
  ModelState* state = nullptr;
  TRITONSERVER_Error* error = guarded([&] {
    void* found = nullptr;
    check(TRITONBACKEND_ModelInstanceState(instance, &found));
    state = static_cast<ModelState*>(found);
    answer(instance, *state, requests, count);
  });
  if (error != nullptr) return error;  // Triton answers and releases the requests itself
  state->backend.releaser.release_later(requests, count);
  return nullptr;
}

}  // extern "C"
