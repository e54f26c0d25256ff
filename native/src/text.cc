#include "text.h"

#include <cstdint>

#include "failure.h"

namespace tritonfleet {
namespace {

constexpr std::size_t kLengthSize = 4;

std::size_t read_length(std::string_view bytes) {
  std::size_t length = 0;
  for (std::size_t i = 0; i < kLengthSize; ++i) {
    length |= static_cast<std::size_t>(static_cast<unsigned char>(bytes[i])) << (8 * i);
  }
  return length;
}

}  // namespace

std::vector<std::string_view> parse_text(
    std::string_view bytes, std::size_t count, const std::string& input) {
  std::vector<std::string_view> elements;
  while (!bytes.empty()) {
    if (bytes.size() < kLengthSize || read_length(bytes) > bytes.size() - kLengthSize) {
      throw invalid("input '" + input + "' ends in the middle of an element");
    }
    const std::size_t length = read_length(bytes);
    elements.push_back(bytes.substr(kLengthSize, length));
    bytes.remove_prefix(kLengthSize + length);
  }
  if (elements.size() != count) {
    throw invalid(
        "input '" + input + "' has " + std::to_string(elements.size()) +
        " elements, and its shape " + std::to_string(count));
  }
  return elements;
}

void append_text(std::string& bytes, std::string_view element) {
  const auto length = static_cast<std::uint32_t>(element.size());
  for (std::size_t i = 0; i < kLengthSize; ++i) {
    bytes.push_back(static_cast<char>(length >> (8 * i) & 0xFF));
  }
  bytes.append(element);
}

}  // namespace tritonfleet
