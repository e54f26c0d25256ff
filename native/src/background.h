// Work that nobody waits for.
#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <map>
#include <mutex>
#include <thread>

namespace tritonfleet {

// One thread, of lower priority than those that answer requests; it starts with the first job.
class Background {
 public:
  using Job = std::function<void()>;

  Background() = default;
  ~Background();
  Background(const Background&) = delete;
  Background& operator=(const Background&) = delete;

  // Jobs must not throw. One that is not due when the server ends is dropped.
  void post(Job job, std::chrono::milliseconds delay = std::chrono::milliseconds(0));

 private:
  using Clock = std::chrono::steady_clock;

  void work();

  std::mutex mutex_;
  std::condition_variable changed_;
  std::multimap<Clock::time_point, Job> jobs_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace tritonfleet
