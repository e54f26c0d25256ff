// Requests that no client would send: whatever they are, each gets an answer or an error.
#include <algorithm>
#include <cstring>
#include <map>
#include <optional>
#include <random>

#include <nlohmann/json.hpp>

#include "modes.h"

namespace tritonfleet::testing {
namespace {

constexpr std::size_t kLargestInput = 1 << 16;
constexpr std::int64_t kOddDims[] = {
    0, 1, 2, 3, 5, 17, 1000, -1, std::int64_t{1} << 31, std::int64_t{1} << 40, INT64_MAX,
    INT64_MIN};
constexpr TRITONSERVER_DataType kTypes[] = {
    TRITONSERVER_TYPE_BOOL,   TRITONSERVER_TYPE_UINT8, TRITONSERVER_TYPE_UINT16,
    TRITONSERVER_TYPE_UINT32, TRITONSERVER_TYPE_UINT64, TRITONSERVER_TYPE_INT8,
    TRITONSERVER_TYPE_INT16,  TRITONSERVER_TYPE_INT32, TRITONSERVER_TYPE_INT64,
    TRITONSERVER_TYPE_FP16,   TRITONSERVER_TYPE_FP32,  TRITONSERVER_TYPE_FP64,
    TRITONSERVER_TYPE_BYTES,  TRITONSERVER_TYPE_BF16};
const std::map<std::string, TRITONSERVER_DataType> kTypeNames = {
    {"TYPE_BOOL", TRITONSERVER_TYPE_BOOL},     {"TYPE_UINT8", TRITONSERVER_TYPE_UINT8},
    {"TYPE_UINT16", TRITONSERVER_TYPE_UINT16}, {"TYPE_UINT32", TRITONSERVER_TYPE_UINT32},
    {"TYPE_UINT64", TRITONSERVER_TYPE_UINT64}, {"TYPE_INT8", TRITONSERVER_TYPE_INT8},
    {"TYPE_INT16", TRITONSERVER_TYPE_INT16},   {"TYPE_INT32", TRITONSERVER_TYPE_INT32},
    {"TYPE_INT64", TRITONSERVER_TYPE_INT64},   {"TYPE_FP16", TRITONSERVER_TYPE_FP16},
    {"TYPE_FP32", TRITONSERVER_TYPE_FP32},     {"TYPE_FP64", TRITONSERVER_TYPE_FP64},
    {"TYPE_STRING", TRITONSERVER_TYPE_BYTES},  {"TYPE_BF16", TRITONSERVER_TYPE_BF16}};

// The product of a shape, unless it is none that a buffer could have.
std::optional<std::size_t> element_count(const std::vector<std::int64_t>& shape) {
  std::size_t count = 1;
  for (const std::int64_t dim : shape) {
    if (dim < 0) return std::nullopt;
    if (__builtin_mul_overflow(count, static_cast<std::size_t>(dim), &count)) return std::nullopt;
  }
  return count;
}

class Inventor {
 public:
  Inventor(std::uint64_t seed, nlohmann::json config)
      : random_(seed),
        config_(std::move(config)),
        batched_(config_.value("max_batch_size", 0) > 0) {}

  Question question() {
    Question question{config_.at("name"), {}, {}};
    const std::int64_t rows = one_in(6) ? odd_dim() : pick(1, 4);
    for (const auto& input : config_.at("input")) {
      if (!one_in(20)) question.inputs.push_back(tensor(input, rows));
    }
    if (one_in(20)) question.inputs.push_back(stranger(rows));
    std::ranges::shuffle(question.inputs, random_);
    question.outputs = outputs();
    if (config_.contains("sequence_batching")) join_sequence(question);
    return question;
  }

 private:
  bool one_in(std::uint64_t odds) { return random_() % odds == 0; }
  std::int64_t pick(std::int64_t least, std::int64_t most) {
    return std::uniform_int_distribution<std::int64_t>(least, most)(random_);
  }
  std::int64_t odd_dim() { return kOddDims[random_() % std::size(kOddDims)]; }

  Tensor tensor(const nlohmann::json& input, std::int64_t rows) {
    Tensor tensor{input.at("name"), kTypeNames.at(input.at("data_type")), {}, {}};
    if (one_in(15)) tensor.type = kTypes[random_() % std::size(kTypes)];
    tensor.shape = shape(input, one_in(10) ? odd_dim() : rows);
    tensor.bytes = one_in(8) ? noise(random_() % 256) : content(tensor);
    return tensor;
  }

  Tensor stranger(std::int64_t rows) {
    return {"stranger" + std::to_string(pick(0, 3)), TRITONSERVER_TYPE_FP32, {rows}, noise(4)};
  }

  std::vector<std::int64_t> shape(const nlohmann::json& input, std::int64_t rows) {
    std::vector<std::int64_t> shape;
    if (batched_) shape.push_back(rows);
    for (const auto& entry : input.at("dims")) {
      const std::int64_t dim =
          entry.is_string() ? std::stoll(entry.get<std::string>()) : entry.get<std::int64_t>();
      shape.push_back(one_in(12) ? odd_dim() : dim < 0 ? pick(0, 5) : dim);
    }
    if (one_in(15)) shape.push_back(odd_dim());
    if (one_in(15) && !shape.empty()) shape.pop_back();
    return shape;
  }

  // As many bytes as the shape claims, or fewer when it claims too many.
  std::string content(const Tensor& tensor) {
    const std::optional<std::size_t> count = element_count(tensor.shape);
    const std::size_t elements = std::min<std::size_t>(count.value_or(3), kLargestInput);
    if (tensor.type == TRITONSERVER_TYPE_BYTES) return texts(elements);
    return noise(std::min(elements * byte_size_of(tensor.type), kLargestInput));
  }

  // Each with its length before it; sometimes the length lies.
  std::string texts(std::size_t count) {
    std::string bytes;
    for (std::size_t i = 0; i < std::min<std::size_t>(count, 64); ++i) {
      const std::string text = noise(random_() % 12);
      auto length = static_cast<std::uint32_t>(text.size());
      if (one_in(40)) length = static_cast<std::uint32_t>(random_());
      if (one_in(60)) length += 1;
      char prefix[sizeof(length)];
      std::memcpy(prefix, &length, sizeof(length));
      bytes.append(prefix, sizeof(prefix)).append(text);
    }
    if (one_in(30)) bytes.resize(random_() % (bytes.size() + 1));
    return bytes;
  }

  std::string noise(std::size_t size) {
    std::string bytes(size, '\0');
    // Small numbers mostly: they reach further into a model than random ones.
    const bool small = !one_in(3);
    for (char& byte : bytes) byte = static_cast<char>(small ? random_() % 3 : random_());
    return bytes;
  }

  std::vector<std::string> outputs() {
    std::vector<std::string> names;
    if (one_in(2)) return names;
    for (const auto& output : config_.at("output")) {
      if (one_in(2)) names.push_back(output.at("name"));
    }
    if (one_in(20)) names.emplace_back("stranger");
    return names;
  }

  void join_sequence(Question& question) {
    question.correlation_id = static_cast<std::uint64_t>(pick(0, 3));
    if (one_in(2)) question.flags |= TRITONSERVER_REQUEST_FLAG_SEQUENCE_START;
    if (one_in(3)) question.flags |= TRITONSERVER_REQUEST_FLAG_SEQUENCE_END;
  }

  std::mt19937_64 random_;
  const nlohmann::json config_;
  const bool batched_;
};

// An output whose bytes are not those that its shape claims would send a client astray.
void expect_sound(const std::string& model, const Answer& answer) {
  for (const Tensor& output : answer.outputs) {
    const std::optional<std::size_t> count = element_count(output.shape);
    expect(count.has_value(), model + ": output " + output.name + " has no real shape");
    const std::size_t size = byte_size_of(output.type);
    expect(
        size == 0 || output.bytes.size() == *count * size,
        model + ": output " + output.name + " has other bytes than its shape says");
  }
}

void expect_undisturbed(Server& server, const std::string& model) {
  const Question question = question_to_double(model, {2, 3}, 7);
  const std::string wrong = mistake(question, server.ask(question));
  expect(wrong.empty(), "after odd requests, " + wrong);
}

}  // namespace

Report fuzz_requests(const Arguments& arguments) {
  Server server(arguments.server);
  std::mt19937_64 random(arguments.seed);
  std::vector<Inventor> inventors;
  for (const std::string& model : model_names(server)) {
    const std::string refusal = server.load(model);
    expect(refusal.empty(), refusal);
    inventors.emplace_back(random(), nlohmann::json::parse(server.config(model)));
  }
  const std::string known = doublers(server).front();
  Report outcomes{{"answers", 0}, {"errors", 0}};
  for (std::uint64_t i = 0; i < arguments.iterations; ++i) {
    Inventor& inventor = inventors[random() % inventors.size()];
    std::vector<Pending> asked;
    // Several at once, so that good and bad ones meet in a batch.
    const std::uint64_t together = 1 + random() % 8;
    std::string model;
    for (std::uint64_t each = 0; each < together; ++each) {
      Question question = inventor.question();
      model = question.model;
      asked.push_back(server.send(std::move(question)));
    }
    for (Pending& pending : asked) {
      const Answer answer = pending.wait();
      expect_sound(model, answer);
      ++outcomes[answer.error.empty() ? "answers" : "errors"];
    }
    if (i % 16 == 0) expect_undisturbed(server, known);
  }
  server.settle();
  return outcomes;
}

}  // namespace tritonfleet::testing
