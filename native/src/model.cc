#include "model.h"

#include <malloc.h>

#include <filesystem>

#include "agreement.h"
#include "clock.h"
#include "joined.h"

namespace tritonfleet {
namespace {

namespace fs = std::filesystem;
using std::chrono::nanoseconds;

// Packing costs a second for some 1 GB of weights, and saves up to half of each run (both
// measured). A model is packed once its runs have taken twice as long as that costs: whoever rents
// until the rent has reached the price pays at most twice what the best choice would have cost
// (the ski rental problem).
constexpr std::int64_t kPackedBytesPerSecond = 1'000'000'000;
constexpr std::int64_t kPackAfter = 2;
constexpr std::uint64_t kMeasureEveryNs = 100'000'000;
constexpr std::chrono::milliseconds kTrimAfter{1000};

std::string model_path(const std::string& directory, const std::string& file_name) {
  fs::path path = fs::path(directory) / file_name;
  if (fs::is_directory(path)) path /= "model.onnx";
  if (!fs::is_regular_file(path)) {
    throw Failure(TRITONSERVER_ERROR_NOT_FOUND, path.string() + " is missing");
  }
  return path.string();
}

}  // namespace

Model::Model(
    const Surroundings& surroundings, Identity identity, const ModelConfig& config,
    const std::string& directory)
    : surroundings_(surroundings),
      identity_(std::move(identity)),
      config_(config.session),
      path_(model_path(directory, config.file_name)) {
  try {
    const MappedFile file(path_);
    stamp_ = file.stamp();
    session_ = config_.packing == Packing::kEager ? open_packed(file) : open_unpacked(file);
  } catch (const Failure& failure) {
    throw Failure(
        failure.code(), bounded("ONNX Runtime cannot open " + path_ + ": " + failure.what()));
  }
}

std::shared_ptr<const Session> Model::open_unpacked(const MappedFile& file) {
  const bool mapped = surroundings_.config.map_weights;
  Outline outlined = outline(file.bytes(), fs::path(path_).filename().string(), mapped);
  for (const Weight& weight : outlined.weights) weight_bytes_ += weight.size;
  // Without large weights there is nothing that packing could make faster.
  packing_open_ = config_.packing == Packing::kLazy && weight_bytes_ > 0;
  Opening opening{outlined.proto, directory(), nullptr, 0, /*packed=*/false, nullptr};
  if (mapped) {
    opening.mapped_bytes = weight_bytes_;
  } else {
    opening.weights = std::make_unique<const Weights>(
        surroundings_.environment.ort(), surroundings_.regions, file,
        std::move(outlined.weights));
  }
  return std::make_shared<const Session>(surroundings_.environment, config_, std::move(opening));
}

std::shared_ptr<const Session> Model::open_packed(const MappedFile& file) {
  Opening opening{file.bytes(), directory(), nullptr, 0, /*packed=*/true, &packing_};
  return std::make_shared<const Session>(surroundings_.environment, config_, std::move(opening));
}

std::string Model::directory() const { return fs::path(path_).parent_path().string(); }

Model::~Model() {
  session_.reset();
  try {
    // glibc keeps freed pages for itself unless it is told not to; the next load may want them.
    surroundings_.background.post([] { malloc_trim(0); }, kTrimAfter);
  } catch (const std::exception&) {
    malloc_trim(0);
  }
  if (announced_) surroundings_.events.send("unloaded", identity_.name, identity_.version, 0);
}

std::shared_ptr<const Session> Model::session() const {
  const std::lock_guard lock(mutex_);
  return session_;
}

void Model::check(const ModelConfig& config) const {
  const auto problems = contradictions(config, session()->signature());
  if (problems.empty()) return;
  throw invalid(bounded(path_ + " contradicts config.pbtxt: " + joined(problems, "; ")));
}

void Model::announce() {
  told_bytes_ = held_bytes();
  announced_ = true;
  surroundings_.events.send("loaded", identity_.name, identity_.version, told_bytes_);
}

void Model::ran(nanoseconds duration) {
  run_ns_ += duration.count();
  const std::uint64_t now = now_ns();
  std::uint64_t last = measured_at_ns_;
  if (now - last < kMeasureEveryNs) return;
  if (measured_at_ns_.compare_exchange_strong(last, now)) tell_growth();
}

void Model::tell_growth() {
  const std::uint64_t bytes = held_bytes();
  if (bytes <= told_bytes_) return;
  told_bytes_ = bytes;
  surroundings_.events.send("memory", identity_.name, identity_.version, bytes);
}

bool Model::wants_packing() {
  if (!packing_open_) return false;
  const auto pack_ns =
      static_cast<std::int64_t>(weight_bytes_) * 1'000 / (kPackedBytesPerSecond / 1'000'000);
  return run_ns_ >= kPackAfter * pack_ns && packing_open_.exchange(false);
}

void Model::give_up_packing() noexcept {
  packing_open_ = false;
  given_up_ = true;
  packing_.cancel(surroundings_.environment.ort());
}

void Model::pack() {
  if (given_up_) return;
  std::shared_ptr<const Session> packed;
  try {
    const MappedFile file(path_);
    if (file.stamp() != stamp_) return;  // it is another model by now
    packed = open_packed(file);
    if (file.stamp() != stamp_) return;
  } catch (const Failure& failure) {
    if (given_up_) return;
    const std::string text = identity_.name + " stays unpacked: " + failure.what();
    forget(TRITONSERVER_LogMessage(TRITONSERVER_LOG_WARN, __FILE__, __LINE__, text.c_str()));
    return;
  }
  {
    const std::lock_guard lock(mutex_);
    session_.swap(packed);
  }
  packed.reset();  // outside the lock; runs that still use the old session keep it a little longer
  tell_growth();
}

}  // namespace tritonfleet
