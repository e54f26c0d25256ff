#include "regions.h"

#include <malloc.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

#include "failure.h"

namespace tritonfleet {
namespace {

constexpr std::chrono::milliseconds kKept{1000};

std::size_t whole_pages(std::size_t size) {
  static const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  return (size + page - 1) / page * page;
}

char* map_pages(std::size_t size) {
  void* pages = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (pages == MAP_FAILED) {
    throw Failure(
        TRITONSERVER_ERROR_UNAVAILABLE, "there is no memory for " + std::to_string(size) +
                                            " bytes of weights: " + std::strerror(errno));
  }
  // Where the system allows it: one page fault for 2 MiB instead of 512.
  madvise(pages, size, MADV_HUGEPAGE);
  return static_cast<char*>(pages);
}

}  // namespace

Region::Region(Region&& other) noexcept
    : owner_(std::exchange(other.owner_, nullptr)),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)) {}

Region& Region::operator=(Region&& other) noexcept {
  std::swap(owner_, other.owner_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

Region::~Region() {
  if (owner_ != nullptr) owner_->give_back(data_, size_);
}

Regions::~Regions() { free_old(Clock::time_point::max()); }

Region Regions::take(std::size_t size) {
  size = whole_pages(size);
  {
    const std::lock_guard lock(mutex_);
    if (Idle* found = fitting(size); found != nullptr) {
      Region region(*this, found->data, size);
      // What is more than needed goes at once.
      if (found->size > size) munmap(found->data + size, found->size - size);
      idle_.erase(idle_.begin() + (found - idle_.data()));
      return region;
    }
  }
  free_old(Clock::time_point::max());
  return {*this, map_pages(size), size};
}

// The smallest that is large enough.
Regions::Idle* Regions::fitting(std::size_t size) {
  Idle* best = nullptr;
  for (Idle& idle : idle_) {
    if (idle.size >= size && (best == nullptr || idle.size < best->size)) best = &idle;
  }
  return best;
}

void Regions::give_back(char* data, std::size_t size) noexcept {
  try {
    {
      const std::lock_guard lock(mutex_);
      idle_.push_back({data, size, Clock::now()});
    }
    background_.post([this] { free_old(Clock::now() - kKept); }, kKept);
  } catch (const std::exception&) {  // no memory for the note of it
    free_old(Clock::time_point::max());
  }
}

void Regions::free_old(Clock::time_point before) noexcept {
  std::vector<Idle> old;
  {
    const std::lock_guard lock(mutex_);
    const auto kept = std::partition(
        idle_.begin(), idle_.end(), [&](const Idle& idle) { return idle.since > before; });
    old.assign(kept, idle_.end());
    idle_.erase(kept, idle_.end());
  }
  for (const Idle& idle : old) munmap(idle.data, idle.size);
}

}  // namespace tritonfleet
