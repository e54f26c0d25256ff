// Triton's BYTES: each element is its length, four bytes little-endian, and then its bytes.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace tritonfleet {

// The elements of a tensor, as views into `bytes`. Throws a Failure naming the input when they
// are not exactly `count`.
std::vector<std::string_view> parse_text(
    std::string_view bytes, std::size_t count, const std::string& input);

void append_text(std::string& bytes, std::string_view element);

}  // namespace tritonfleet
