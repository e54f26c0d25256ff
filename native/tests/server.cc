#include "server.h"

#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <thread>

#include <nlohmann/json.hpp>

namespace tritonfleet::testing {
namespace {

// What a client would hardly ask for; refusing it shows how the backend takes a refusal.
constexpr std::size_t kLargestOutput = std::size_t{1} << 30;
constexpr std::chrono::milliseconds kPoll{1};

std::string taken(TRITONSERVER_Error* error) {
  if (!error) return {};
  std::string message = TRITONSERVER_ErrorMessage(error);
  TRITONSERVER_ErrorDelete(error);
  return message.empty() ? "an error without words" : message;
}

void check(TRITONSERVER_Error* error) {
  if (error) throw Failed(taken(error));
}

std::string text_of(TRITONSERVER_Message* message) {
  const char* base = nullptr;
  std::size_t size = 0;
  check(TRITONSERVER_MessageSerializeToJson(message, &base, &size));
  std::string text(base, size);
  check(TRITONSERVER_MessageDelete(message));
  return text;
}

// For what nobody tells of.
template <typename Condition>
void wait_until(Condition met, const std::string& otherwise) {
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  while (!met()) {
    expect(std::chrono::steady_clock::now() < deadline, otherwise);
    std::this_thread::sleep_for(kPoll);
  }
}

TRITONSERVER_Error* allocate(
    TRITONSERVER_ResponseAllocator*, const char*, std::size_t byte_size, TRITONSERVER_MemoryType,
    std::int64_t, void*, void** buffer, void** buffer_parameter,
    TRITONSERVER_MemoryType* actual_memory_type, std::int64_t* actual_memory_type_id) {
  *actual_memory_type = TRITONSERVER_MEMORY_CPU;
  *actual_memory_type_id = 0;
  *buffer_parameter = nullptr;
  *buffer = byte_size && byte_size <= kLargestOutput ? std::malloc(byte_size) : nullptr;
  if (byte_size && !*buffer) {
    return TRITONSERVER_ErrorNew(TRITONSERVER_ERROR_UNAVAILABLE, "no memory for an output");
  }
  return nullptr;
}

TRITONSERVER_Error* release_buffer(
    TRITONSERVER_ResponseAllocator*, void* buffer, void*, std::size_t, TRITONSERVER_MemoryType,
    std::int64_t) {
  std::free(buffer);
  return nullptr;
}

Tensor output_of(TRITONSERVER_InferenceResponse* response, std::uint32_t index) {
  const char* name = nullptr;
  const std::int64_t* shape = nullptr;
  const void* base = nullptr;
  std::uint64_t dims_count = 0;
  std::size_t byte_size = 0;
  TRITONSERVER_MemoryType memory_type{};
  std::int64_t memory_type_id = 0;
  void* parameter = nullptr;
  Tensor tensor;
  check(TRITONSERVER_InferenceResponseOutput(
      response, index, &name, &tensor.type, &shape, &dims_count, &base, &byte_size, &memory_type,
      &memory_type_id, &parameter));
  tensor.name = name;
  tensor.shape.assign(shape, shape + dims_count);
  if (byte_size) tensor.bytes.assign(static_cast<const char*>(base), byte_size);
  return tensor;
}

Answer answer_of(TRITONSERVER_InferenceResponse* response) {
  Answer answer;
  answer.error = taken(TRITONSERVER_InferenceResponseError(response));
  if (!answer.error.empty()) return answer;
  std::uint32_t count = 0;
  check(TRITONSERVER_InferenceResponseOutputCount(response, &count));
  for (std::uint32_t i = 0; i < count; ++i) answer.outputs.push_back(output_of(response, i));
  return answer;
}

}  // namespace

// Lives until the server has released the request and sent its last response: the server reads
// the inputs out of it.
class Pending::Flight {
 public:
  Flight(Question question, std::shared_ptr<std::atomic<int>> unreleased)
      : question_(std::move(question)), unreleased_(std::move(unreleased)) {}

  const Question& question() const { return question_; }

  void answered(Answer answer) {
    const std::lock_guard lock(mutex_);
    answer_ = std::move(answer);
    ++answers_;
    changed_.notify_all();
  }

  void in_flight(TRITONSERVER_InferenceRequest* request) {
    const std::lock_guard lock(mutex_);
    request_ = request;
    ++*unreleased_;
  }

  void released() {
    const std::lock_guard lock(mutex_);
    check(TRITONSERVER_InferenceRequestDelete(std::exchange(request_, nullptr)));
    --*unreleased_;
  }

  // Refused before it was on its way: the request is still ours.
  void refused(const std::string& why) {
    released();
    answered({why, {}});
  }

  void cancel() {
    const std::lock_guard lock(mutex_);
    if (request_) check(TRITONSERVER_InferenceRequestCancel(request_));
  }

  Answer wait() {
    std::unique_lock lock(mutex_);
    const bool done = changed_.wait_for(lock, kPatience, [&] { return answers_ > 0; });
    expect(done, question_.model + " never answered");
    expect(answers_ == 1, question_.model + " answered a request twice");
    return answer_;
  }

 private:
  Question question_;
  std::shared_ptr<std::atomic<int>> unreleased_;
  std::mutex mutex_;
  std::condition_variable changed_;
  TRITONSERVER_InferenceRequest* request_ = nullptr;
  Answer answer_;
  int answers_ = 0;
};

namespace {

using Held = std::shared_ptr<Pending::Flight>;

void on_release(TRITONSERVER_InferenceRequest*, const std::uint32_t, void* parameter) {
  const std::unique_ptr<Held> held(static_cast<Held*>(parameter));
  (*held)->released();
}

void on_response(
    TRITONSERVER_InferenceResponse* response, const std::uint32_t flags, void* parameter) {
  const std::unique_ptr<Held> held(static_cast<Held*>(parameter));
  Answer answer{"the response is missing", {}};
  if (response && (flags & TRITONSERVER_RESPONSE_COMPLETE_FINAL)) answer = answer_of(response);
  if (response) check(TRITONSERVER_InferenceResponseDelete(response));
  (*held)->answered(std::move(answer));
}

void fill(TRITONSERVER_InferenceRequest* request, const Question& question) {
  check(TRITONSERVER_InferenceRequestSetFlags(request, question.flags));
  if (question.correlation_id) {
    check(TRITONSERVER_InferenceRequestSetCorrelationId(request, question.correlation_id));
  }
  for (const Tensor& input : question.inputs) {
    check(TRITONSERVER_InferenceRequestAddInput(
        request, input.name.c_str(), input.type, input.shape.data(), input.shape.size()));
    check(TRITONSERVER_InferenceRequestAppendInputData(
        request, input.name.c_str(), input.bytes.data(), input.bytes.size(),
        TRITONSERVER_MEMORY_CPU, 0));
  }
  for (const std::string& output : question.outputs) {
    check(TRITONSERVER_InferenceRequestAddRequestedOutput(request, output.c_str()));
  }
}

TRITONSERVER_ServerOptions* options_of(const ServerSettings& settings) {
  TRITONSERVER_ServerOptions* options = nullptr;
  check(TRITONSERVER_ServerOptionsNew(&options));
  check(TRITONSERVER_ServerOptionsSetModelRepositoryPath(options, settings.repository.c_str()));
  check(TRITONSERVER_ServerOptionsSetModelControlMode(
      options, TRITONSERVER_MODEL_CONTROL_EXPLICIT));
  check(TRITONSERVER_ServerOptionsSetStrictModelConfig(options, settings.strict_model_config));
  check(TRITONSERVER_ServerOptionsSetBackendDirectory(options, settings.backends.c_str()));
  for (const auto& [setting, value] : settings.backend_config) {
    check(TRITONSERVER_ServerOptionsSetBackendConfig(
        options, "onnxruntime", setting.c_str(), value.c_str()));
  }
  check(TRITONSERVER_ServerOptionsSetExitOnError(options, false));
  // Options made here begin with whatever number was in memory; tritonserver sets it, too.
  check(TRITONSERVER_ServerOptionsSetModelLoadRetryCount(options, 0));
  check(TRITONSERVER_ServerOptionsSetLogInfo(options, false));
  check(TRITONSERVER_ServerOptionsSetLogWarn(options, false));
  check(TRITONSERVER_ServerOptionsSetLogError(options, false));
  check(TRITONSERVER_ServerOptionsSetMetrics(options, false));
  check(TRITONSERVER_ServerOptionsSetGpuMetrics(options, false));
  return options;
}

}  // namespace

Pending::Pending(std::shared_ptr<Flight> flight) : flight_(std::move(flight)) {}

Answer Pending::wait() { return flight_->wait(); }

void Pending::cancel() { flight_->cancel(); }

Server::Server(const ServerSettings& settings) {
  TRITONSERVER_ServerOptions* options = options_of(settings);
  const std::string error = taken(TRITONSERVER_ServerNew(&server_, options));
  check(TRITONSERVER_ServerOptionsDelete(options));
  if (!error.empty()) throw Failed(error);
  check(TRITONSERVER_ResponseAllocatorNew(&allocator_, allocate, release_buffer, nullptr));
}

Server::~Server() {
  taken(TRITONSERVER_ServerDelete(server_));
  taken(TRITONSERVER_ResponseAllocatorDelete(allocator_));
}

std::string Server::load(const std::string& model) {
  return taken(TRITONSERVER_ServerLoadModel(server_, model.c_str()));
}

std::string Server::unload(const std::string& model) {
  return taken(TRITONSERVER_ServerUnloadModel(server_, model.c_str()));
}

std::map<std::string, std::string> Server::index() {
  TRITONSERVER_Message* message = nullptr;
  check(TRITONSERVER_ServerModelIndex(server_, 0, &message));
  std::map<std::string, std::string> states;
  for (const auto& entry : nlohmann::json::parse(text_of(message))) {
    states.emplace(entry.at("name"), entry.value("state", ""));
  }
  return states;
}

std::string Server::config(const std::string& model) {
  TRITONSERVER_Message* message = nullptr;
  check(TRITONSERVER_ServerModelConfig(server_, model.c_str(), -1, 1, &message));
  return text_of(message);
}

void Server::wait_until_unloaded(const std::string& model) {
  const auto gone = [&] {
    const std::string state = index()[model];
    return state.empty() || state == "UNAVAILABLE";
  };
  wait_until(gone, model + " never unloaded");
}

void Server::settle() {
  wait_until([&] { return *unreleased_ == 0; }, "a request was never given back");
}

Pending Server::send(Question question) {
  const auto flight = std::make_shared<Pending::Flight>(std::move(question), unreleased_);
  TRITONSERVER_InferenceRequest* request = nullptr;
  const std::string& model = flight->question().model;
  if (auto* error = TRITONSERVER_InferenceRequestNew(&request, server_, model.c_str(), -1)) {
    flight->answered({taken(error), {}});
    return Pending(flight);
  }
  flight->in_flight(request);
  auto on_release_parameter = std::make_unique<Held>(flight);
  auto on_response_parameter = std::make_unique<Held>(flight);
  try {
    fill(request, flight->question());
    check(TRITONSERVER_InferenceRequestSetReleaseCallback(
        request, on_release, on_release_parameter.get()));
    check(TRITONSERVER_InferenceRequestSetResponseCallback(
        request, allocator_, nullptr, on_response, on_response_parameter.get()));
    check(TRITONSERVER_ServerInferAsync(server_, request, nullptr));
    // The callbacks own them now.
    static_cast<void>(on_release_parameter.release());
    static_cast<void>(on_response_parameter.release());
  } catch (const Failed& refusal) {
    flight->refused(refusal.what());
  }
  return Pending(flight);
}

}  // namespace tritonfleet::testing
