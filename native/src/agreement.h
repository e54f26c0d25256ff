// Whether a model keeps what its config.pbtxt promises, and what an incomplete one should say.
#pragma once

#include <string>
#include <vector>

#include "config.h"
#include "session.h"

namespace tritonfleet {

// One sentence for each promise that is not kept.
std::vector<std::string> contradictions(const ModelConfig& config, const Signature& signature);

// The model configuration with inputs, outputs and batching filled in from the model where
// config.pbtxt says nothing, as the official backend fills them in.
std::string completed(
    const std::string& config_json, const Signature& signature, int default_max_batch_size);

}  // namespace tritonfleet
