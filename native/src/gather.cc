#include "gather.h"

#include <algorithm>
#include <cstring>
#include <string_view>

#include "text.h"

namespace tritonfleet {
namespace {

using Shape = std::vector<std::int64_t>;

bool aligned(const void* address, std::size_t unit) {
  return reinterpret_cast<std::uintptr_t>(address) % unit == 0;
}

// A tensor on the memory of a request, if it lies there in one well-aligned piece.
Owned<OrtValue> borrowed(
    const Session& session, const TensorType& type, const Shape& shape,
    const std::vector<std::string_view>& pieces) {
  if (pieces.size() != 1 || pieces[0].empty() || !aligned(pieces[0].data(), type.byte_size)) {
    return {};
  }
  return session.borrow(type, shape, pieces[0]);
}

// Copies the pieces of all requests one after the other.
Owned<OrtValue> gathered(
    const Session& session, const TensorType& type, const Shape& shape,
    const std::vector<std::vector<std::string_view>>& pieces) {
  auto value = session.allocate(type, shape);
  char* next = static_cast<char*>(session.data(value));
  for (const auto& request : pieces) {
    for (const auto piece : request) {
      if (piece.empty()) continue;
      std::memcpy(next, piece.data(), piece.size());
      next += piece.size();
    }
  }
  return value;
}

// The elements of one request's text, and the bytes that they point into.
struct Text {
  std::string joined;
  std::vector<std::string_view> elements;
};

Text read_text(const RequestInput& input, const std::vector<std::string_view>& pieces) {
  Text text;
  std::string_view bytes = pieces.size() == 1 ? pieces[0] : std::string_view();
  if (pieces.size() > 1) {
    for (const auto piece : pieces) text.joined.append(piece);
    bytes = text.joined;
  }
  text.elements = parse_text(bytes, element_count(input.shape), input.name);
  return text;
}

Owned<OrtValue> gathered_text(
    const Session& session, const Works& works, std::size_t index, const Shape& shape,
    const std::vector<std::vector<std::string_view>>& pieces) {
  // Read before anything is allocated: a shape may promise more elements than there are.
  std::vector<Text> texts(works.size());
  for (std::size_t i = 0; i < works.size(); ++i) {
    texts[i] = read_text(works[i]->inputs[index], pieces[i]);
  }
  auto value = session.allocate(*works.front()->inputs[index].type, shape);
  std::size_t next = 0;
  for (const auto& text : texts) {
    for (const auto element : text.elements) session.set_text(value, next++, element);
  }
  return value;
}

// One after the other, without any dimension of their own.
Shape flat_shape(const Works& works, std::size_t index) {
  std::size_t count = 0;
  for (const Work* work : works) count += element_count(work->inputs[index].shape);
  return {static_cast<std::int64_t>(count)};
}

Shape stacked_shape(const Works& works, std::size_t index) {
  Shape shape = works.front()->inputs[index].shape;
  for (std::size_t i = 1; i < works.size(); ++i) {
    shape.front() += works[i]->inputs[index].shape.front();
  }
  return shape;
}

Owned<OrtValue> stacked(
    const Session& session, const Works& works, std::size_t index, bool ragged) {
  const RequestInput& first = works.front()->inputs[index];
  const Shape shape = ragged ? flat_shape(works, index) : stacked_shape(works, index);
  std::vector<std::vector<std::string_view>> pieces;
  for (const Work* work : works) pieces.push_back(buffers_of(work->inputs[index]));
  if (first.type->byte_size == 0) return gathered_text(session, works, index, shape, pieces);
  if (works.size() == 1) {
    auto value = borrowed(session, *first.type, shape, pieces[0]);
    if (value.get() != nullptr) return value;
  }
  return gathered(session, *first.type, shape, pieces);
}

// -- what a batch says about itself ------------------------------------------------------------

std::vector<std::int64_t> counts_of(const BatchInput& wanted, const Works& works) {
  std::vector<std::int64_t> counts;
  for (const Work* work : works) {
    const auto& source = input_named(*work, wanted.source_input);
    counts.push_back(static_cast<std::int64_t>(element_count(source.shape)));
  }
  return counts;
}

// The shape of each item of the batch, without the batch dimension.
std::vector<std::int64_t> item_shapes(const BatchInput& wanted, const Works& works) {
  std::vector<std::int64_t> shapes;
  for (const Work* work : works) {
    const Shape& shape = input_named(*work, wanted.source_input).shape;
    for (std::int64_t row = 0; row < work->rows; ++row) {
      shapes.insert(shapes.end(), shape.begin() + 1, shape.end());
    }
  }
  return shapes;
}

struct Numbers {
  Shape shape;
  std::vector<std::int64_t> values;
};

Numbers batch_numbers(const BatchInput& wanted, const Works& works, std::int64_t total_rows) {
  using Kind = BatchInput::Kind;
  if (wanted.kind == Kind::kItemShape || wanted.kind == Kind::kItemShapeFlatten) {
    auto shapes = item_shapes(wanted, works);
    const auto count = static_cast<std::int64_t>(shapes.size());
    if (wanted.kind == Kind::kItemShapeFlatten) return {{count}, std::move(shapes)};
    return {{total_rows, total_rows == 0 ? 0 : count / total_rows}, std::move(shapes)};
  }
  auto counts = counts_of(wanted, works);
  if (wanted.kind == Kind::kMaxElementCountAsShape) {
    const auto largest = *std::max_element(counts.begin(), counts.end());
    return {{largest}, std::vector<std::int64_t>(static_cast<std::size_t>(largest))};
  }
  if (wanted.kind != Kind::kElementCount) {
    for (std::size_t i = 1; i < counts.size(); ++i) counts[i] += counts[i - 1];
  }
  if (wanted.kind == Kind::kAccumulatedElementCountWithZero) counts.insert(counts.begin(), 0);
  return {{static_cast<std::int64_t>(counts.size())}, std::move(counts)};
}

template <typename Number>
void write_numbers(void* target, const std::vector<std::int64_t>& values) {
  std::transform(
      values.begin(), values.end(), static_cast<Number*>(target),
      [](std::int64_t value) { return static_cast<Number>(value); });
}

Owned<OrtValue> batch_tensor(
    const Session& session, const BatchInput& wanted, const Works& works,
    std::int64_t total_rows) {
  const auto numbers = batch_numbers(wanted, works, total_rows);
  auto value = session.allocate(*wanted.type, numbers.shape);
  void* target = session.data(value);
  if (wanted.type->triton == TRITONSERVER_TYPE_FP32) {
    write_numbers<float>(target, numbers.values);
  } else if (wanted.type->triton == TRITONSERVER_TYPE_INT32) {
    write_numbers<std::int32_t>(target, numbers.values);
  } else {
    write_numbers<std::int64_t>(target, numbers.values);
  }
  return value;
}

}  // namespace

void Inputs::add(const std::string& name, Owned<OrtValue> value) {
  names.push_back(name.c_str());
  values.push_back(value.get());
  owned_.push_back(std::move(value));
}

Inputs gather(
    const Session& session, const ModelConfig& config, const Works& works,
    std::int64_t total_rows) {
  Inputs inputs;
  for (std::size_t i = 0; i < works.front()->inputs.size(); ++i) {
    const std::string& name = works.front()->inputs[i].name;
    inputs.add(name, stacked(session, works, i, config.is_ragged(name)));
  }
  for (const auto& wanted : config.batch_inputs) {
    for (const auto& name : wanted.target_names) {
      inputs.add(name, batch_tensor(session, wanted, works, total_rows));
    }
  }
  return inputs;
}

}  // namespace tritonfleet
