// One opened model: its session, its signature and the memory that both hold.
//
// Knows ONNX Runtime and what config.pbtxt asks for; not requests, and not the server.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "config.h"
#include "ort.h"
#include "weights.h"

namespace tritonfleet {

// An input or output of the graph. Type is null when Triton has no such tensor.
struct Argument {
  std::string name;
  const TensorType* type = nullptr;
  std::string description;  // of a type that Triton does not have
  bool has_shape = false;   // false for a scalar or an unknown rank, which look alike
  std::vector<std::int64_t> dims;
};

struct Signature {
  std::vector<Argument> inputs;
  std::vector<Argument> optional_inputs;  // constants that a request may replace
  std::vector<Argument> outputs;
};

// What a tensor that was computed turned out to be. Type is null when Triton has no such tensor.
struct TensorInfo {
  const TensorType* type = nullptr;
  std::vector<std::int64_t> shape;
};

// What all sessions of the server share.
class Environment {
 public:
  Environment(Ort ort, const BackendConfig& config);

  [[nodiscard]] const Ort& ort() const noexcept { return ort_; }
  [[nodiscard]] const OrtEnv* env() const noexcept { return env_.get(); }

 private:
  Ort ort_;
  Owned<OrtEnv> env_;
};

// Lets another thread give up the opening of a session, which then fails.
class Cancellation {
 public:
  void cancel(const Ort& ort) noexcept;

  // Whose opening it is, as long as it lasts.
  void begin(const Ort& ort, OrtSessionOptions* options);
  void end();

 private:
  std::mutex mutex_;
  OrtSessionOptions* options_ = nullptr;
  bool cancelled_ = false;
};

// What a session is made of.
struct Opening {
  std::string_view model;                  // whole, or an outline; needed only while it is opened
  std::string directory;                   // where the outline's weights, or others, are
  std::unique_ptr<const Weights> weights;  // of the outline, unless they are mapped; may be null
  std::uint64_t mapped_bytes = 0;          // of the outline's weights, if they are
  bool packed = false;                     // ONNX Runtime calls it prepacked
  Cancellation* cancellation = nullptr;
};

class Session {
 public:
  Session(const Environment& environment, const SessionConfig& config, Opening opening);

  // The named outputs for the named inputs; safe from several threads at once.
  [[nodiscard]] std::vector<Owned<OrtValue>> run(
      const std::vector<const char*>& input_names, const std::vector<const OrtValue*>& inputs,
      const std::vector<const char*>& output_names) const;

  // A tensor in the session's own arena, to be filled by the caller.
  [[nodiscard]] Owned<OrtValue> allocate(
      const TensorType& type, const std::vector<std::int64_t>& shape) const;

  // A tensor on memory of the caller's, which must outlive it.
  [[nodiscard]] Owned<OrtValue> borrow(
      const TensorType& type, const std::vector<std::int64_t>& shape, std::string_view bytes) const;

  [[nodiscard]] void* data(const Owned<OrtValue>& tensor) const;
  [[nodiscard]] TensorInfo info(const Owned<OrtValue>& tensor) const;
  void set_text(const Owned<OrtValue>& tensor, std::size_t index, std::string_view element) const;

  // The elements of a tensor of text.
  [[nodiscard]] std::vector<std::string> text(
      const Owned<OrtValue>& tensor, std::size_t count) const;

  [[nodiscard]] Signature signature() const;

  // Weights and arena.
  [[nodiscard]] std::uint64_t held_bytes() const;

  [[nodiscard]] const Ort& ort() const noexcept { return environment_.ort(); }

 private:
  const Environment& environment_;
  std::unique_ptr<const Weights> weights_;  // outlives the session, which uses it
  std::uint64_t mapped_bytes_;
  Owned<OrtMemoryInfo> memory_info_;
  Owned<OrtSession> session_;
  Owned<OrtAllocator> allocator_;
  Owned<OrtRunOptions> run_options_;
};

}  // namespace tritonfleet
