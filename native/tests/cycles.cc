#include <algorithm>

#include "modes.h"

namespace tritonfleet::testing {
namespace {

constexpr std::uint64_t kSamples = 20;
constexpr std::size_t kDigits = 6;

void cycle(Server& server, const std::string& model) {
  const std::string refusal = server.load(model);
  expect(refusal.empty(), refusal);
  const Question question = question_to_double(model, {2, 3}, 1);
  const std::string wrong = mistake(question, server.ask(question));
  expect(wrong.empty(), wrong);
  server.unload(model);
  server.wait_until_unloaded(model);
}

// With leading zeros, for the report is in alphabetical order.
std::string number(std::uint64_t i) {
  const std::string digits = std::to_string(i);
  return std::string(kDigits - std::min(kDigits, digits.size()), '0') + digits;
}

}  // namespace

Report cycles(const Arguments& arguments) {
  Server server(arguments.server);
  const std::vector<std::string> models = doublers(server);
  Report resident;
  const std::uint64_t stride = std::max<std::uint64_t>(1, arguments.cycles / kSamples);
  for (std::uint64_t i = 1; i <= arguments.cycles; ++i) {
    cycle(server, models[i % models.size()]);
    if (i % stride == 0) resident["resident_bytes_" + number(i)] = resident_bytes();
  }
  return resident;
}

}  // namespace tritonfleet::testing
