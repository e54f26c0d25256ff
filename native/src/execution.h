// Turns the requests of one execution into as few session runs as possible, and back.
#pragma once

#include <cstdint>
#include <vector>

#include "session.h"
#include "work.h"

namespace tritonfleet {

// One session run, for the statistics.
struct Run {
  std::int64_t rows = 0;
  std::uint64_t start_ns = 0;
  std::uint64_t end_ns = 0;
  std::vector<Work*> works;
};

// Computes the outputs of all works that have not failed yet. Works of a batched model whose
// inputs agree in all but the first dimension share a run; when that fails, each gets a run of
// its own, so that only the guilty one fails.
std::vector<Run> execute(
    const Session& session, const ModelConfig& config, std::vector<Work>& works);

}  // namespace tritonfleet
