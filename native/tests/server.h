// A Triton server in this process, spoken to in C++: questions in, answers out.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "server_api.h"

namespace tritonfleet::testing {

// What a test expected did not come true.
class Failed : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

inline void expect(bool met, const std::string& otherwise) {
  if (!met) throw Failed(otherwise);
}

struct Tensor {
  std::string name;
  TRITONSERVER_DataType type = TRITONSERVER_TYPE_FP32;
  std::vector<std::int64_t> shape;
  std::string bytes;
};

struct Question {
  std::string model;
  std::vector<Tensor> inputs;
  std::vector<std::string> outputs;  // none asks for all
  std::uint32_t flags = 0;
  std::uint64_t correlation_id = 0;
};

struct Answer {
  std::string error;  // empty when all is well
  std::vector<Tensor> outputs;
};

struct ServerSettings {
  std::string repository;
  std::string backends;
  std::vector<std::pair<std::string, std::string>> backend_config;
  bool strict_model_config = true;
};

// An answer that is on its way.
class Pending {
 public:
  class Flight;
  explicit Pending(std::shared_ptr<Flight> flight);
  // Throws Failed when the model never answers.
  Answer wait();
  void cancel();

 private:
  std::shared_ptr<Flight> flight_;
};

class Server {
 public:
  explicit Server(const ServerSettings& settings);
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  // The reason of the failure; empty when there was none.
  std::string load(const std::string& model);
  std::string unload(const std::string& model);
  // Returns once the index says that no version of it is in memory.
  void wait_until_unloaded(const std::string& model);
  // Every model of the repository, and its state as the index has it; empty for one never touched.
  std::map<std::string, std::string> index();
  // As JSON.
  std::string config(const std::string& model);
  Pending send(Question question);
  Answer ask(Question question) { return send(std::move(question)).wait(); }
  // Returns once every request has been given back; throws Failed when one never is.
  void settle();

 private:
  TRITONSERVER_Server* server_ = nullptr;
  TRITONSERVER_ResponseAllocator* allocator_ = nullptr;
  std::shared_ptr<std::atomic<int>> unreleased_ = std::make_shared<std::atomic<int>>(0);
};

// Generous: a sanitizer on a busy machine may be slow, it may not fail.
inline constexpr std::chrono::seconds kPatience{120};

}  // namespace tritonfleet::testing
