// Packs the weights of much used models in the background.
#pragma once

#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>

#include "model.h"

namespace tritonfleet {

// One thread, of lower priority than those that answer requests. A model that is unloaded while
// it is being packed goes when that ends.
class Packer {
 public:
  Packer() = default;
  ~Packer();
  Packer(const Packer&) = delete;
  Packer& operator=(const Packer&) = delete;

  void submit(const std::shared_ptr<Model>& model);

 private:
  void work();

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::weak_ptr<Model>> queue_;
  bool stopping_ = false;
  std::thread thread_;  // started with the first model
};

}  // namespace tritonfleet
