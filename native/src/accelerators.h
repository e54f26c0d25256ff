// optimization.execution_accelerators, as ONNX Runtime's execution providers.
#pragma once

#include <vector>

#include "config.h"
#include "ort.h"

namespace tritonfleet {

// Throws a Failure that names an accelerator which this ONNX Runtime does not have.
void append_accelerators(
    const Ort& ort, OrtSessionOptions* options, const std::vector<Accelerator>& accelerators);

}  // namespace tritonfleet
