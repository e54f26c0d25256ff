// Gives answered requests back to Triton, a moment after they have been answered.
//
// A request keeps its model in memory. Triton's thread for an instance has a moment after each
// execution in which the instance must not be destroyed: it has taken the instance off a list
// that the destructor reads, and not put it back yet; the server would crash. The thread that has
// brought a request has such a moment, too. So an instance keeps the requests of an execution until
// the next one, which keeps the model in its turn, or until they are 20 ms old and its thread
// sleeps. The answers have been sent by then: nobody waits for this.
#pragma once

#include <sys/types.h>

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

  // Called by a thread of Triton's at the end of an execution; takes the requests over.
  void release_later(TRITONBACKEND_Request** requests, std::uint32_t count) noexcept;

 private:
  using Clock = std::chrono::steady_clock;
  using Requests = std::vector<TRITONBACKEND_Request*>;

  // What one thread of Triton's has answered last.
  struct Answered {
    pid_t thread = 0;
    std::mutex mutex;
    Requests requests;
    Clock::time_point at;
  };

  std::shared_ptr<Answered> this_thread();
  Requests exchange(TRITONBACKEND_Request** requests, std::uint32_t count);
  void wake_sweeper();
  void sweep();
  bool sweep_once();
  static Requests take_over(Answered& answered);

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::weak_ptr<Answered>> threads_;
  bool pending_ = false;
  bool stopping_ = false;
  std::thread sweeper_;
};

}  // namespace tritonfleet
