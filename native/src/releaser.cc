#include "releaser.h"

#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <iterator>
#include <string>
#include <utility>

#include "failure.h"

namespace tritonfleet {
namespace {

using Clock = std::chrono::steady_clock;

// Long against what the thread still has to do, short against what anybody would notice.
constexpr std::chrono::milliseconds kMoment{1};

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

Releaser::Releaser() : thread_(&Releaser::work, this) {}

Releaser::~Releaser() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_one();
  thread_.join();
}

const std::shared_ptr<Releaser::Worker>& Releaser::this_worker() {
  thread_local const auto worker =
      std::make_shared<Worker>(static_cast<pid_t>(syscall(SYS_gettid)));
  return worker;
}

void Releaser::begin_execution() { ++this_worker()->executions; }

void Releaser::release_later(TRITONBACKEND_Request** requests, std::uint32_t count) noexcept {
  try {
    enqueue(requests, count);
  } catch (const std::exception&) {  // no memory: better at once than never
    std::for_each(requests, requests + count, release);
  }
}

void Releaser::enqueue(TRITONBACKEND_Request** requests, std::uint32_t count) {
  const auto& worker = this_worker();
  Answered answered{
      worker, worker->executions, Clock::now() + kMoment, {requests, requests + count}};
  bool first = false;
  {
    const std::lock_guard lock(mutex_);
    first = waiting_.empty();
    waiting_.push_back(std::move(answered));
  }
  if (first) changed_.notify_one();
}

bool Releaser::is_over(const Answered& answered) {
  if (answered.worker->executions > answered.execution) return true;
  return Clock::now() >= answered.due && sleeps(answered.worker->thread);
}

std::vector<Releaser::Answered> Releaser::take_over(std::unique_lock<std::mutex>& lock) {
  std::vector<Answered> candidates = std::exchange(waiting_, {});
  lock.unlock();
  const auto first_over = std::partition(
      candidates.begin(), candidates.end(), [](const Answered& each) { return !is_over(each); });
  std::vector<Answered> over(
      std::make_move_iterator(first_over), std::make_move_iterator(candidates.end()));
  candidates.erase(first_over, candidates.end());
  lock.lock();
  waiting_.insert(
      waiting_.end(), std::make_move_iterator(candidates.begin()),
      std::make_move_iterator(candidates.end()));
  return over;
}

void Releaser::work() {
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    changed_.wait(lock, [this] { return stopping_ || !waiting_.empty(); });
    changed_.wait_for(lock, kMoment, [this] { return stopping_; });
    const auto over = take_over(lock);
    lock.unlock();
    for (const Answered& answered : over) std::ranges::for_each(answered.requests, release);
    lock.lock();
  }
  for (const Answered& answered : waiting_) std::ranges::for_each(answered.requests, release);
}

}  // namespace tritonfleet
