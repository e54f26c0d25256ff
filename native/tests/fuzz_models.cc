// Model files that no exporter would write: each is opened or refused, and harms no other model.
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <thread>

#include "modes.h"

namespace tritonfleet::testing {
namespace {

namespace fs = std::filesystem;
constexpr std::chrono::milliseconds kUntilTritonIsReady{100};

std::string read_file(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

void write_file(const fs::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

std::string damaged(std::string bytes, std::mt19937_64& random) {
  const auto anywhere = [&] { return static_cast<std::size_t>(random() % (bytes.size() + 1)); };
  switch (random() % 5) {
    case 0:
      bytes.resize(anywhere());
      break;
    case 1:
      bytes.erase(anywhere(), 1 + random() % 16);
      break;
    case 2:
      bytes.insert(anywhere(), bytes.substr(anywhere(), random() % 64));
      break;
    case 3:
      bytes.append(bytes.substr(anywhere()));
      break;
    default:
      break;
  }
  for (std::uint64_t i = 0; i < random() % 4 && !bytes.empty(); ++i) {
    bytes[random() % bytes.size()] = static_cast<char>(random());
  }
  return bytes;
}

// A model of its own, under another name.
fs::path copied(const fs::path& repository, const std::string& original, const std::string& copy) {
  fs::copy(repository / original, repository / copy, fs::copy_options::recursive);
  const fs::path config = repository / copy / "config.pbtxt";
  std::string text = read_file(config);
  const std::string name = '"' + original + '"';
  text.replace(text.find(name), name.size(), '"' + copy + '"');
  write_file(config, text);
  return repository / copy / "1" / "model.onnx";
}

// What the model answers is its own affair; that it answers is ours.
void ask_if_loaded(Server& server, const std::string& model, const std::string& refusal) {
  if (refusal.empty() && !server.ask(question_to_double(model, {2, 3}, 1)).error.empty()) {
    // Perhaps it never ran, and Triton may crash when such a model leaves at once: see storm.cc.
    std::this_thread::sleep_for(kUntilTritonIsReady);
  }
  server.unload(model);
  server.wait_until_unloaded(model);
}

}  // namespace

Report fuzz_models(const Arguments& arguments) {
  Server server(arguments.server);
  const std::vector<std::string> originals = model_names(server);
  const std::string known = doublers(server).front();
  server.load(known);
  const fs::path repository = arguments.server.repository;
  std::mt19937_64 random(arguments.seed);
  Report outcomes{{"opened", 0}, {"refused", 0}};
  for (std::uint64_t i = 0; i < arguments.iterations; ++i) {
    const std::string original = originals[random() % originals.size()];
    const std::string copy = "damaged_" + original;
    const fs::path file = copied(repository, original, copy);
    write_file(file, damaged(read_file(file), random));
    // For whoever wants to see the file at which the process ended.
    write_file(repository / ".." / "last.onnx", read_file(file));
    const std::string refusal = server.load(copy);
    ++outcomes[refusal.empty() ? "opened" : "refused"];
    ask_if_loaded(server, copy, refusal);
    fs::remove_all(repository / copy);
    const Question question = question_to_double(known, {2, 3}, 7);
    const std::string wrong = mistake(question, server.ask(question));
    expect(wrong.empty(), "after a damaged model, " + wrong);
  }
  server.settle();
  return outcomes;
}

}  // namespace tritonfleet::testing
