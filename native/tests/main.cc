// Drives the backend inside a real Triton, in this process, where sanitizers see it.
//
//   triton_host MODE --repository=… --backends=… [--NAME=NUMBER …] [--config=SETTING=VALUE …]
//
// Prints one JSON object and exits with 0 when everything came out right.
#include <cstdlib>
#include <functional>
#include <iostream>
#include <map>
#include <string_view>

#include <dlfcn.h>

#include "modes.h"

namespace {

using tritonfleet::testing::Arguments;
using tritonfleet::testing::expect;
using tritonfleet::testing::Failed;

using tritonfleet::testing::Report;

using Mode = Report (*)(const Arguments&);
const std::map<std::string, Mode> kModes = {
    {"check", tritonfleet::testing::check_basics},
    {"storm", tritonfleet::testing::storm},
    {"cycles", tritonfleet::testing::cycles},
    {"fuzz-requests", tritonfleet::testing::fuzz_requests},
    {"fuzz-models", tritonfleet::testing::fuzz_models},
};

void set(Arguments& arguments, const std::string& name, const std::string& value) {
  const std::map<std::string, std::uint64_t*> numbers = {
      {"seconds", &arguments.seconds}, {"threads", &arguments.threads},
      {"cycles", &arguments.cycles},   {"iterations", &arguments.iterations},
      {"seed", &arguments.seed},
  };
  if (const auto number = numbers.find(name); number != numbers.end()) {
    *number->second = std::stoull(value);
  } else if (name == "config") {
    const std::size_t equals = value.find('=');
    expect(equals != std::string::npos, "--config takes SETTING=VALUE");
    arguments.server.backend_config.emplace_back(
        value.substr(0, equals), value.substr(equals + 1));
  } else if (name == "repository") {
    arguments.server.repository = value;
  } else if (name == "backends") {
    arguments.server.backends = value;
  } else {
    throw Failed("there is no option --" + name);
  }
}

Arguments parsed(int count, char** values) {
  expect(count > 1 && kModes.contains(values[1]), "the first argument is no mode");
  Arguments arguments;
  arguments.mode = values[1];
  for (int i = 2; i < count; ++i) {
    const std::string argument = values[i];
    const std::size_t equals = argument.find('=');
    expect(argument.starts_with("--") && equals != std::string::npos, "--NAME=VALUE: " + argument);
    set(arguments, argument.substr(2, equals - 2), argument.substr(equals + 1));
  }
  return arguments;
}

// Triton closes the backend before the leaks are counted; they would bear no names then.
void keep_open(const std::string& backends) {
  const std::string path = backends + "/onnxruntime/libtriton_onnxruntime.so";
  expect(dlopen(path.c_str(), RTLD_LAZY | RTLD_NODELETE), path + " cannot be opened");
}

void print(const Report& report) {
  const char* separator = "{";
  for (const auto& [name, count] : report) {
    std::cout << separator << '"' << name << "\": " << count;
    separator = ", ";
  }
  std::cout << "}" << std::endl;
}

}  // namespace

int main(int count, char** values) {
  try {
    const Arguments arguments = parsed(count, values);
    keep_open(arguments.server.backends);
    print(kModes.at(arguments.mode)(arguments));
    return EXIT_SUCCESS;
  } catch (const std::exception& error) {
    std::cerr << "failed: " << error.what() << std::endl;
    return EXIT_FAILURE;
  }
}
