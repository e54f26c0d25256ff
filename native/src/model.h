// One version of one model while it is in memory.
//
// Knows how a model is opened, measured and packed; not requests.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>

#include "background.h"
#include "config.h"
#include "events.h"
#include "onnx_file.h"
#include "regions.h"
#include "session.h"

namespace tritonfleet {

// Which model this is, for people and for the fleet.
struct Identity {
  std::string name;
  std::uint64_t version = 0;
};

// What all models of a server share.
struct Surroundings {
  const BackendConfig& config;
  const Environment& environment;
  const Events& events;
  Background& background;
  Regions& regions;
};

class Model {
 public:
  // Opens the file in `directory`, or throws a Failure that says why that cannot be done.
  Model(
      const Surroundings& surroundings, Identity identity, const ModelConfig& config,
      const std::string& directory);
  ~Model();
  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;

  // The session to run now; it may be replaced by a packed one at any time.
  [[nodiscard]] std::shared_ptr<const Session> session() const;

  [[nodiscard]] const std::string& path() const noexcept { return path_; }
  [[nodiscard]] std::uint64_t held_bytes() const { return session()->held_bytes(); }

  // Throws a Failure if the model does not keep what its configuration promises.
  void check(const ModelConfig& config) const;

  // Tells the fleet that the model is there; from now on it also tells when it has gone.
  void announce();

  // Takes note of a run, and tells the fleet if the model has grown.
  void ran(std::chrono::nanoseconds duration);

  // Whether the model has been used enough to be packed; says yes once.
  [[nodiscard]] bool wants_packing();

  // Replaces the session by one with packed weights; on failure the old one stays.
  void pack();

  // The model is about to go: packing it would only delay that.
  void give_up_packing() noexcept;

 private:
  [[nodiscard]] std::string directory() const;
  void tell_growth();

  [[nodiscard]] std::shared_ptr<const Session> open_unpacked(const MappedFile& file);
  [[nodiscard]] std::shared_ptr<const Session> open_packed(const MappedFile& file);

  const Surroundings surroundings_;
  const Identity identity_;
  const SessionConfig config_;
  const std::string path_;
  MappedFile::Stamp stamp_;
  std::uint64_t weight_bytes_ = 0;
  std::atomic<bool> packing_open_{false};  // whether the model may still be packed
  std::atomic<bool> given_up_{false};
  Cancellation packing_;
  mutable std::mutex mutex_;
  std::shared_ptr<const Session> session_;
  std::atomic<std::int64_t> run_ns_{0};
  std::atomic<std::uint64_t> measured_at_ns_{0};
  std::atomic<std::uint64_t> told_bytes_{0};
  bool announced_ = false;
};

}  // namespace tritonfleet
