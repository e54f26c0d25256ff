// Memory for weights, kept for a moment when a model leaves.
#pragma once

#include <chrono>
#include <cstddef>
#include <memory>
#include <mutex>
#include <vector>

#include "background.h"

namespace tritonfleet {

class Regions;

// Pages that are given back to where they came from when they are no longer needed.
class Region {
 public:
  Region() = default;
  Region(Region&& other) noexcept;
  Region& operator=(Region&& other) noexcept;
  ~Region();

  [[nodiscard]] char* data() const noexcept { return data_; }
  [[nodiscard]] std::size_t size() const noexcept { return size_; }

 private:
  friend class Regions;
  Region(Regions& owner, char* data, std::size_t size)
      : owner_(&owner), data_(data), size_(size) {}

  Regions* owner_ = nullptr;
  char* data_ = nullptr;
  std::size_t size_ = 0;
};

// In a full fleet a model is evicted so that another can be loaded, and fresh pages, which the
// system has to clear, cost that load more than reading its weights does. So the pages of a model
// that has gone wait a second for the next one. Whatever does not fit into them frees them first:
// at no time is there more memory in use than the models that were there at once have had.
class Regions {
 public:
  // `background` must end first.
  explicit Regions(Background& background) : background_(background) {}
  ~Regions();
  Regions(const Regions&) = delete;
  Regions& operator=(const Regions&) = delete;

  // Throws a Failure when there is no memory. What the pages hold is left over from others.
  Region take(std::size_t size);

 private:
  friend class Region;
  using Clock = std::chrono::steady_clock;

  struct Idle {
    char* data;
    std::size_t size;
    Clock::time_point since;
  };

  void give_back(char* data, std::size_t size) noexcept;
  void free_old(Clock::time_point before) noexcept;
  Idle* fitting(std::size_t size);

  Background& background_;
  std::mutex mutex_;
  std::vector<Idle> idle_;
};

}  // namespace tritonfleet
