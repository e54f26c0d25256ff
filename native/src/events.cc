#include "events.h"

#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <nlohmann/json.hpp>

#include "failure.h"

namespace tritonfleet {

Events::Events(std::string path) : path_(std::move(path)) {
  if (path_.empty()) return;
  if (path_.size() >= sizeof(sockaddr_un::sun_path)) {
    throw invalid("backend config 'events' is too long for a Unix socket: " + path_);
  }
  socket_ = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  // Linux keeps only some ten datagrams for a listener; one that is busy may need a moment.
  constexpr timeval kPatience{0, 20'000};
  setsockopt(socket_, SOL_SOCKET, SO_SNDTIMEO, &kPatience, sizeof(kPatience));
}

Events::~Events() {
  if (socket_ >= 0) close(socket_);
}

void Events::send(
    std::string_view event, const std::string& model, std::uint64_t version,
    std::uint64_t bytes) const noexcept {
  if (socket_ < 0) return;
  try {
    const std::string text = nlohmann::json{
        {"event", event}, {"model", model}, {"version", version}, {"bytes", bytes}}.dump();
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, path_.data(), path_.size());
    sendto(
        socket_, text.data(), text.size(), MSG_NOSIGNAL,
        reinterpret_cast<const sockaddr*>(&address), sizeof(address));
  } catch (...) {
    // A model's name that is no UTF-8, or no memory for the text: the event is lost.
  }
}

}  // namespace tritonfleet
