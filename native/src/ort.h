// ONNX Runtime as a library that is found and checked while the server runs.
#pragma once

#include <memory>
#include <string>
#include <type_traits>
#include <vector>

#include "failure.h"
#include "ort_api.h"

namespace tritonfleet {

// The loaded library. Copies share it; it stays loaded as long as the process lives.
class Ort {
 public:
  // Opens the library at `path` (or wherever the system finds "libonnxruntime.so.1") and checks
  // that its table of functions is the one declared in ort_api.h.
  static Ort open(const std::string& path);

  [[nodiscard]] const std::string& version() const noexcept { return version_; }

  // Calls a function that cannot fail.
  template <typename Result, typename... Arguments>
  Result operator()(
      OrtSlot<Result(Arguments...)> slot, std::type_identity_t<Arguments>... arguments) const {
    using Function = Result (*)(Arguments...);
    return reinterpret_cast<Function>(table_[slot.number])(arguments...);
  }

  // Calls a function that returns a status, which becomes a Failure unless all is well.
  template <typename... Arguments>
  void operator()(
      OrtSlot<OrtStatus*(Arguments...)> slot, std::type_identity_t<Arguments>... arguments) const {
    using Function = OrtStatus* (*)(Arguments...);
    check_status(reinterpret_cast<Function>(table_[slot.number])(arguments...));
  }

  // The names of the execution providers that this build has.
  [[nodiscard]] std::vector<std::string> providers() const;

 private:
  Ort(void* const* table, std::string version) : table_(table), version_(std::move(version)) {}

  void check_status(OrtStatus* status) const;
  void check_table() const;

  void* const* table_;
  std::string version_;
};

// An object of ONNX Runtime's that is released when it goes out of scope.
template <typename Object>
class Owned {
 public:
  Owned() = default;
  Owned(const Ort& ort, slot::Release<Object> release, Object* object)
      : object_(object, Deleter{&ort, release}) {}

  [[nodiscard]] Object* get() const noexcept { return object_.get(); }

 private:
  struct Deleter {
    const Ort* ort = nullptr;
    slot::Release<Object> release{0};
    void operator()(Object* object) const { (*ort)(release, object); }
  };
  std::unique_ptr<Object, Deleter> object_;
};

// An ONNX Runtime error without error codes, file names and C++ source locations.
std::string readable(const std::string& message);

}  // namespace tritonfleet
