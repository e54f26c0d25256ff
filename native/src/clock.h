// The clock of all figures that are compared with each other.
#pragma once

#include <chrono>
#include <cstdint>

namespace tritonfleet {

inline std::uint64_t now_ns() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return static_cast<std::uint64_t>(std::chrono::nanoseconds(now).count());
}

}  // namespace tritonfleet
