#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>

#include <nlohmann/json.hpp>

#include "modes.h"

namespace tritonfleet::testing {
namespace {

constexpr int kPatienceMs = std::chrono::milliseconds(kPatience).count();

// Hears what the backend tells of its models.
class Listener {
 public:
  explicit Listener(const std::filesystem::path& path) : path_(path.string()) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    expect(path_.size() < sizeof(address.sun_path), path_ + " is too long for a socket");
    std::memcpy(address.sun_path, path_.data(), path_.size());
    socket_ = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    std::filesystem::remove(path);
    expect(bind(socket_, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0,
           path_ + " cannot be bound");
  }

  ~Listener() {
    close(socket_);
    std::filesystem::remove(path_);
  }
  Listener(const Listener&) = delete;
  Listener& operator=(const Listener&) = delete;

  const std::string& path() const { return path_; }

  // The next event of one kind, or null when there is none for a long time.
  nlohmann::json next(const std::string& kind) {
    pollfd waiting{socket_, POLLIN, 0};
    while (poll(&waiting, 1, kPatienceMs) == 1) {
      char datagram[4096];
      const ssize_t size = recv(socket_, datagram, sizeof(datagram), 0);
      expect(size > 0, "an event is empty");
      auto event = nlohmann::json::parse(datagram, datagram + size);
      if (event.at("event") == kind) return event;
    }
    return nullptr;
  }

 private:
  std::string path_;
  int socket_ = -1;
};

void expect_event(Listener& listener, const std::string& kind, const std::string& model) {
  const nlohmann::json event = listener.next(kind);
  expect(!event.is_null(), model + ": no event '" + kind + "'");
  expect(event.at("model") == model && event.at("version") == 1, event.dump());
  expect(kind != "unloaded" || event.at("bytes") == 0, event.dump());
}

void expect_doubles(Server& server, const std::string& model) {
  constexpr float kRequests = 64;
  std::vector<std::pair<Question, Pending>> asked;
  for (float i = 0; i < kRequests; ++i) {
    const auto number = static_cast<std::int64_t>(i);
    const Question question = question_to_double(model, {1 + number % 4, number % 7}, i);
    asked.emplace_back(question, server.send(question));
  }
  for (auto& [question, pending] : asked) {
    const std::string wrong = mistake(question, pending.wait());
    expect(wrong.empty(), wrong);
  }
}

// Requests that are in flight while their model leaves are answered.
void expect_unload_in_flight(Server& server, const std::string& model) {
  const Question question = question_to_double(model, {2, 5}, 1);
  std::vector<Pending> asked;
  for (int i = 0; i < 16; ++i) asked.push_back(server.send(question));
  server.unload(model);
  for (Pending& pending : asked) {
    const std::string wrong = mistake(question, pending.wait());
    expect(wrong.empty(), wrong);
  }
  server.wait_until_unloaded(model);
}

}  // namespace

Report check_basics(const Arguments& arguments) {
  Listener listener(std::filesystem::path(arguments.server.repository).parent_path() / "events");
  ServerSettings settings = arguments.server;
  settings.backend_config.emplace_back("events", listener.path());
  Server server(settings);
  for (const std::string& model : doublers(server)) {
    const std::string refusal = server.load(model);
    expect(refusal.empty(), refusal);
    expect_event(listener, "loaded", model);
    expect_doubles(server, model);
    expect_unload_in_flight(server, model);
    expect_event(listener, "unloaded", model);
  }
  server.settle();
  // What is still loaded when the server ends must not leak either.
  server.load(doublers(server).front());
  return {{"models", doublers(server).size()}};
}

}  // namespace tritonfleet::testing
