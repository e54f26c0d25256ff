#include <algorithm>
#include <atomic>
#include <map>
#include <mutex>
#include <random>
#include <thread>

#include "modes.h"

namespace tritonfleet::testing {
namespace {

using Clock = std::chrono::steady_clock;

// What a client may be told of a model that is loading, unloading or not loaded.
constexpr const char* kAbsent[] = {
    "has no available versions", "is not found", "is not at ready state"};

bool says_absent(const std::string& error) {
  return std::ranges::any_of(
      kAbsent, [&](const char* text) { return error.find(text) != std::string::npos; });
}

struct Tally {
  std::atomic<std::uint64_t> answers{0};
  std::atomic<std::uint64_t> absences{0};
  std::atomic<std::uint64_t> loads{0};
  std::atomic<std::uint64_t> unloads{0};
};

class Storm {
 public:
  Storm(Server& server, std::uint64_t seconds)
      : server_(server),
        models_(doublers(server)),
        end_(Clock::now() + std::chrono::seconds(seconds)) {
    for (const std::string& model : models_) turns_[model];
  }

  void blow(std::uint64_t seed) {
    std::mt19937_64 random(seed);
    try {
      while (Clock::now() < end_ && !failed_) act(random);
    } catch (const Failed& failure) {
      const std::lock_guard lock(mutex_);
      if (!failed_.exchange(true)) failure_ = failure.what();
    }
  }

  void calm() {
    expect(!failed_, failure_);
    for (const std::string& model : models_) server_.unload(model);
    for (const std::string& model : models_) server_.wait_until_unloaded(model);
    server_.settle();
    expect(tally_.answers > 0, "no request was answered");
  }

  Report told() const {
    return {
        {"answers", tally_.answers.load()},
        {"absences", tally_.absences.load()},
        {"loads", tally_.loads.load()},
        {"unloads", tally_.unloads.load()},
    };
  }

 private:
  void act(std::mt19937_64& random) {
    const std::string& model = models_[random() % models_.size()];
    switch (random() % 10) {
      case 0:
        return unload(model);
      case 1:
      case 2:
        return load(model);
      default:
        return ask(model, random);
    }
  }

  // Triton may crash when a model is unloaded before it has answered once: its thread may not
  // have come back from the load yet. The controller keeps that rule, and so does the storm.
  void load(const std::string& model) {
    const std::lock_guard turn(turns_.at(model));
    const std::string error = server_.load(model);
    expect(error.empty(), error);
    const Question question = question_to_double(model, {1, 2}, 1);
    const std::string wrong = mistake(question, server_.ask(question));
    expect(wrong.empty(), wrong);
    ++tally_.loads;
  }

  void unload(const std::string& model) {
    const std::lock_guard turn(turns_.at(model));
    const std::string error = server_.unload(model);
    expect(error.empty(), error);
    ++tally_.unloads;
  }

  void ask(const std::string& model, std::mt19937_64& random) {
    const auto rows = static_cast<std::int64_t>(1 + random() % 3);
    const auto columns = static_cast<std::int64_t>(random() % 5);
    const auto first = static_cast<float>(random() % 1000);
    const Question question = question_to_double(model, {rows, columns}, first);
    Pending pending = server_.send(question);
    const bool cancelled = random() % 16 == 0;
    if (cancelled) pending.cancel();
    const Answer answer = pending.wait();
    if (says_absent(answer.error)) {
      ++tally_.absences;
    } else if (!cancelled || answer.error.empty()) {
      const std::string wrong = mistake(question, answer);
      expect(wrong.empty(), wrong);
      ++tally_.answers;
    }
  }

  Server& server_;
  const std::vector<std::string> models_;
  const Clock::time_point end_;
  std::map<std::string, std::mutex> turns_;
  Tally tally_;
  std::atomic<bool> failed_{false};
  std::mutex mutex_;
  std::string failure_;
};

}  // namespace

Report storm(const Arguments& arguments) {
  Server server(arguments.server);
  Storm storm(server, arguments.seconds);
  std::vector<std::thread> threads;
  for (std::uint64_t i = 0; i < arguments.threads; ++i) {
    threads.emplace_back([&storm, seed = arguments.seed * 1000 + i] { storm.blow(seed); });
  }
  for (std::thread& thread : threads) thread.join();
  storm.calm();
  return storm.told();
}

}  // namespace tritonfleet::testing
