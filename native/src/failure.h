// The one exception of this backend: a sentence for people and Triton's code for it.
#pragma once

#include <stdexcept>
#include <string>
#include <string_view>

#include "triton_api.h"

namespace tritonfleet {

// The text with a question mark for each byte that is no UTF-8. Files of models hold any bytes, and
// protobuf refuses a whole message, the index of all models perhaps, because of one.
std::string valid_utf8(std::string_view text);

class Failure : public std::runtime_error {
 public:
  Failure(TRITONSERVER_Error_Code code, const std::string& message)
      : std::runtime_error(valid_utf8(message)), code_(code) {}

  [[nodiscard]] TRITONSERVER_Error_Code code() const noexcept { return code_; }

  // For the server, which owns what is returned.
  [[nodiscard]] TRITONSERVER_Error* to_triton() const {
    return TRITONSERVER_ErrorNew(code_, what());
  }

 private:
  TRITONSERVER_Error_Code code_;
};

inline Failure invalid(const std::string& message) {
  return {TRITONSERVER_ERROR_INVALID_ARG, message};
}

// Throws what a function of Triton's API returned, if it returned an error.
inline void check(TRITONSERVER_Error* error) {
  if (error == nullptr) return;
  const Failure failure{TRITONSERVER_ErrorCode(error), TRITONSERVER_ErrorMessage(error)};
  TRITONSERVER_ErrorDelete(error);
  throw failure;
}

// For calls after which nothing could be done about an error.
inline void forget(TRITONSERVER_Error* error) noexcept {
  if (error != nullptr) TRITONSERVER_ErrorDelete(error);
}

// At most 2,000 characters: beyond some 8,000, gRPC replaces a status by one of its own.
inline std::string bounded(std::string text) {
  constexpr std::size_t kLongest = 2000;
  if (text.size() > kLongest) text = text.substr(0, kLongest - 4) + " ...";
  return text;
}

}  // namespace tritonfleet
