// Makes the inputs of one session run out of the inputs of several requests.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "session.h"
#include "work.h"

namespace tritonfleet {

using Works = std::vector<Work*>;

struct Inputs {
  std::vector<const char*> names;
  std::vector<const OrtValue*> values;

  // `name` must outlive the inputs.
  void add(const std::string& name, Owned<OrtValue> value);

 private:
  std::vector<Owned<OrtValue>> owned_;
};

// The inputs of all works, row after row; ragged ones element after element. The only work of a
// run lends its memory, several are copied once.
Inputs gather(
    const Session& session, const ModelConfig& config, const Works& works,
    std::int64_t total_rows);

}  // namespace tritonfleet
