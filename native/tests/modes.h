// What the host can do with a server; each throws Failed when something came out wrong.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "server.h"

namespace tritonfleet::testing {

struct Arguments {
  std::string mode;
  ServerSettings server;
  std::uint64_t seconds = 5;
  std::uint64_t threads = 4;
  std::uint64_t cycles = 100;
  std::uint64_t iterations = 200;
  std::uint64_t seed = 1;
};

// What was counted.
using Report = std::map<std::string, std::uint64_t>;

// Every model answers, errors are clear, and events tell what was in memory.
Report check_basics(const Arguments& arguments);
// Many threads load, unload and ask at random.
Report storm(const Arguments& arguments);
// One model is loaded, asked and unloaded over and over; tells what stays in memory.
Report cycles(const Arguments& arguments);
// Requests that no client would send.
Report fuzz_requests(const Arguments& arguments);
// Model files that no exporter would write.
Report fuzz_models(const Arguments& arguments);

// Models whose name begins so double x into y, which are FP32 with one variable dimension.
inline constexpr const char* kDoubler = "double";

std::vector<std::string> model_names(Server& server);
std::vector<std::string> doublers(Server& server);
Question question_to_double(const std::string& model, const std::vector<std::int64_t>& shape,
                            float first);
// What is wrong with the answer; empty when it is right.
std::string mistake(const Question& question, const Answer& answer);
std::size_t byte_size_of(TRITONSERVER_DataType type);
std::uint64_t resident_bytes();

}  // namespace tritonfleet::testing
