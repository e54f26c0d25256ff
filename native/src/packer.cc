#include "packer.h"

#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace tritonfleet {
namespace {

// A third of the share of a thread that answers requests, when both want the same core.
constexpr int kNice = 5;

void lower_priority() {
  const auto thread = static_cast<id_t>(syscall(SYS_gettid));
  setpriority(PRIO_PROCESS, thread, kNice);  // on Linux a thread has a priority of its own
}

}  // namespace

Packer::~Packer() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_one();
  if (thread_.joinable()) thread_.join();
}

void Packer::submit(const std::shared_ptr<Model>& model) {
  {
    const std::lock_guard lock(mutex_);
    queue_.push_back(model);
    if (!thread_.joinable()) thread_ = std::thread(&Packer::work, this);
  }
  changed_.notify_one();
}

void Packer::work() {
  lower_priority();
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
    if (stopping_) return;
    const std::weak_ptr<Model> next = std::move(queue_.front());
    queue_.pop_front();
    lock.unlock();
    if (const auto model = next.lock()) model->pack();
    lock.lock();
  }
}

}  // namespace tritonfleet
