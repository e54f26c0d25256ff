// Shares one result of a session run out among the requests that it answers.
#pragma once

#include <cstdint>
#include <string>

#include "gather.h"

namespace tritonfleet {

// Adds to every work that asked for the output, or keeps it as a state, its part of the value.
// Numbers are not copied: a part keeps the whole value alive.
void scatter(
    const Session& session, const ModelConfig& config, const Works& works,
    const std::string& name, Owned<OrtValue> value, std::int64_t total_rows);

}  // namespace tritonfleet
