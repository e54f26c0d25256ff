// Tells the fleet what happens to models, as it happens.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace tritonfleet {

// A Unix datagram socket to whoever listens at a path. Sending never fails and hardly waits: an
// absent listener, or one that is 20 ms behind, loses the event, and learns the same from Triton's
// index, later.
class Events {
 public:
  explicit Events(std::string path);
  ~Events();
  Events(const Events&) = delete;
  Events& operator=(const Events&) = delete;

  void send(
      std::string_view event, const std::string& model, std::uint64_t version,
      std::uint64_t bytes) const noexcept;

 private:
  std::string path_;
  int socket_ = -1;
};

}  // namespace tritonfleet
