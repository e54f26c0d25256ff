// Lists for people.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace tritonfleet {

inline std::string joined(const std::vector<std::string>& parts, std::string_view separator) {
  std::string text;
  for (const auto& part : parts) {
    if (&part != &parts.front()) text += separator;
    text += part;
  }
  return text;
}

}  // namespace tritonfleet
