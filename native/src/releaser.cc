#include "releaser.h"

#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <exception>
#include <string>
#include <utility>

#include "failure.h"

namespace tritonfleet {
namespace {

// Between two looks at threads that may have nothing more to do. An unload that follows a request
// waits for this long at most; no request does.
constexpr std::chrono::milliseconds kSweepEvery{5};
// Long against what others still have to do with a model whose request has been answered: the
// instance's thread, and the one that has brought the request, which may have lost its core while
// it was about to leave the model's queue. Both would write to memory that has been freed.
constexpr std::chrono::milliseconds kMoment{20};

// Whether a thread of this process waits for something; one that only lost its core does not.
bool sleeps(pid_t thread) {
  const std::string path = "/proc/self/task/" + std::to_string(thread) + "/stat";
  const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) return true;  // it has ended, or nobody can tell
  char text[256];
  const ssize_t size = read(descriptor, text, sizeof(text) - 1);
  close(descriptor);
  text[std::max<ssize_t>(size, 0)] = '\0';
  // "17 (name) S …": a name may hold a parenthesis, what follows it may not.
  const char* name_end = std::strrchr(text, ')');
  return name_end == nullptr || name_end[1] == '\0' || name_end[2] != 'R';
}

void release(TRITONBACKEND_Request* request) {
  forget(TRITONBACKEND_RequestRelease(request, TRITONSERVER_REQUEST_RELEASE_ALL));
}

}  // namespace

Releaser::Releaser() : sweeper_(&Releaser::sweep, this) {}

Releaser::~Releaser() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_one();
  sweeper_.join();
}

void Releaser::release_later(TRITONBACKEND_Request** requests, std::uint32_t count) noexcept {
  try {
    // The execution before this one is over for good, and this one keeps the model.
    std::ranges::for_each(exchange(requests, count), release);
    wake_sweeper();
  } catch (const std::exception&) {  // no memory: better at once than never
    std::for_each(requests, requests + count, release);
  }
}

Releaser::Requests Releaser::exchange(TRITONBACKEND_Request** requests, std::uint32_t count) {
  Requests answered_now(requests, requests + count);
  const auto answered = this_thread();
  const std::lock_guard lock(answered->mutex);
  answered->at = Clock::now();
  return std::exchange(answered->requests, std::move(answered_now));
}

std::shared_ptr<Releaser::Answered> Releaser::this_thread() {
  // A thread belongs to one instance, and so to one server and one releaser.
  thread_local std::shared_ptr<Answered> answered;
  if (answered == nullptr) {
    answered = std::make_shared<Answered>();
    answered->thread = static_cast<pid_t>(syscall(SYS_gettid));
    const std::lock_guard lock(mutex_);
    threads_.push_back(answered);
  }
  return answered;
}

void Releaser::wake_sweeper() {
  {
    const std::lock_guard lock(mutex_);
    if (std::exchange(pending_, true)) return;
  }
  changed_.notify_one();
}

void Releaser::sweep() {
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    changed_.wait(lock, [this] { return stopping_ || pending_; });
    changed_.wait_for(lock, kSweepEvery, [this] { return stopping_; });
    pending_ = false;
    lock.unlock();
    const bool some_left = sweep_once();
    lock.lock();
    pending_ |= some_left;
  }
}

bool Releaser::sweep_once() {
  std::vector<std::shared_ptr<Answered>> threads;
  {
    const std::lock_guard lock(mutex_);
    std::erase_if(threads_, [](const auto& each) { return each.expired(); });
    for (const auto& each : threads_) threads.push_back(each.lock());
  }
  bool some_left = false;
  for (const auto& answered : threads) {
    if (answered == nullptr) continue;
    std::ranges::for_each(take_over(*answered), release);
    const std::lock_guard lock(answered->mutex);
    some_left |= !answered->requests.empty();
  }
  return some_left;
}

// The requests of a thread that has come to rest.
Releaser::Requests Releaser::take_over(Answered& answered) {
  const std::lock_guard lock(answered.mutex);
  const bool rests = !answered.requests.empty() && Clock::now() - answered.at >= kMoment &&
                     sleeps(answered.thread);
  return rests ? std::exchange(answered.requests, {}) : Requests();
}

}  // namespace tritonfleet
