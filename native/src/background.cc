#include "background.h"

#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <utility>

namespace tritonfleet {
namespace {

// A third of the share of a thread that answers requests, when both want the same core.
constexpr int kNice = 5;

void lower_priority() {
  const auto thread = static_cast<id_t>(syscall(SYS_gettid));
  setpriority(PRIO_PROCESS, thread, kNice);  // on Linux a thread has a priority of its own
}

}  // namespace

Background::~Background() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_one();
  if (thread_.joinable()) thread_.join();
}

void Background::post(Job job, std::chrono::milliseconds delay) {
  {
    const std::lock_guard lock(mutex_);
    jobs_.emplace(Clock::now() + delay, std::move(job));
    if (!thread_.joinable()) thread_ = std::thread(&Background::work, this);
  }
  changed_.notify_one();
}

void Background::work() {
  lower_priority();
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    if (jobs_.empty()) {
      changed_.wait(lock);
      continue;
    }
    const auto due = jobs_.begin()->first;
    if (Clock::now() < due) {
      changed_.wait_until(lock, due);
      continue;
    }
    const Job job = std::move(jobs_.extract(jobs_.begin()).mapped());
    lock.unlock();
    job();
    lock.lock();
  }
}

}  // namespace tritonfleet
