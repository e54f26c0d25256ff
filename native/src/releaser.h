// Gives answered requests back to Triton, a moment after they have been answered.
//
// A request keeps its model in memory. Triton's thread for an instance has a moment after each
// execution in which the instance must not be destroyed: it has taken the instance off a list
// that the destructor reads, and not put it back yet; the server would crash. So the last request
// of a model is never given back by that thread itself, and not before the thread sleeps or has
// begun another execution. The answers have been sent by then: nobody waits for this.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "triton_api.h"

namespace tritonfleet {

class Releaser {
 public:
  Releaser();
  ~Releaser();
  Releaser(const Releaser&) = delete;
  Releaser& operator=(const Releaser&) = delete;

  // Called by a thread of Triton's when an execution begins: what it did before is over.
  static void begin_execution();

  // Called by the same thread when the execution ends; takes the requests over.
  void release_later(TRITONBACKEND_Request** requests, std::uint32_t count) noexcept;

 private:
  // What a thread of Triton's has done so far.
  struct Worker {
    const pid_t thread;
    std::atomic<std::uint64_t> executions{0};
  };

  struct Answered {
    std::shared_ptr<const Worker> worker;
    std::uint64_t execution = 0;
    std::chrono::steady_clock::time_point due;
    std::vector<TRITONBACKEND_Request*> requests;
  };

  static const std::shared_ptr<Worker>& this_worker();
  void enqueue(TRITONBACKEND_Request** requests, std::uint32_t count);
  static bool is_over(const Answered& answered);
  void work();
  std::vector<Answered> take_over(std::unique_lock<std::mutex>& lock);

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Answered> waiting_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace tritonfleet
