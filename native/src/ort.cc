#include "ort.h"

#include <dlfcn.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cstring>
#include <string_view>

namespace tritonfleet {
namespace {

// AllocatorGetStats, the youngest function used, came with this version of the API.
constexpr std::uint32_t kApiVersion = 23;

Failure unusable(const std::string& library, const std::string& reason) {
  return {
      TRITONSERVER_ERROR_UNAVAILABLE,
      "ONNX Runtime cannot be used from " + library + ": " + reason};
}

std::uint32_t minor_version(const std::string& version) {
  std::uint32_t minor = 0;
  if (version.rfind("1.", 0) == 0) {
    std::from_chars(version.data() + 2, version.data() + version.size(), minor);
  }
  return minor;
}

TRITONSERVER_Error_Code triton_code(OrtErrorCode code) {
  switch (code) {
    case OrtErrorCode::kInvalidArgument:
      return TRITONSERVER_ERROR_INVALID_ARG;
    case OrtErrorCode::kNotImplemented:
      return TRITONSERVER_ERROR_UNSUPPORTED;
    default:
      return TRITONSERVER_ERROR_INTERNAL;
  }
}

// A pathological message must not cost more than an ordinary one.
constexpr std::size_t kLongestMessage = 8000;

std::string without_loading(const std::string& text) {
  constexpr std::string_view kStart = "Load model from ";
  constexpr std::string_view kEnd = " failed:";
  if (text.rfind(kStart, 0) != 0) return text;
  const auto end = text.find(kEnd);
  return end == std::string::npos ? text : text.substr(end + kEnd.size());
}

// Where "/path/file.cc:12 Function(arguments) " ends that begins at `start`; `start` if it is none.
std::size_t end_of_source(std::string_view text, std::size_t start) {
  const auto word_end = std::min(text.find(' ', start), text.size());
  const std::string_view word = text.substr(start, word_end - start);
  const auto has = [&](std::string_view suffix) { return word.find(suffix) != word.npos; };
  if (!has(".cc:") && !has(".h:") && !has(".cpp:")) return start;
  const auto end = text.find(") ", word_end);
  return end == text.npos ? start : end + 2;
}

std::string without_sources(std::string_view text) {
  std::string kept;
  for (std::size_t i = 0; i < text.size();) {
    const bool word_begins = i == 0 || text[i - 1] == ' ';
    const auto end = word_begins && text[i] == '/' ? end_of_source(text, i) : i;
    if (end == i) kept.push_back(text[i++]);
    i = std::max(i, end);
  }
  return kept;
}

std::string collapsed(std::string_view text) {
  std::string words;
  for (const char c : text) {
    const bool space = std::isspace(static_cast<unsigned char>(c)) != 0;
    if (!space) words.push_back(c);
    if (space && !words.empty() && words.back() != ' ') words.push_back(' ');
  }
  while (!words.empty() && words.back() == ' ') words.pop_back();
  return words;
}

}  // namespace

Ort Ort::open(const std::string& path) {
  const std::string library = path.empty() ? "libonnxruntime.so.1" : path;
  void* handle = dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) throw unusable(library, dlerror());
  auto* base_of = reinterpret_cast<const OrtApiBase* (*)()>(dlsym(handle, "OrtGetApiBase"));
  if (base_of == nullptr) throw unusable(library, "it has no OrtGetApiBase");
  const std::string version = base_of()->get_version_string();
  // Asked first, because GetApi prints a complaint of its own when it refuses.
  if (minor_version(version) < kApiVersion) {
    throw unusable(library, "it is version " + version + ", and 1." +
                                std::to_string(kApiVersion) + " or newer is needed");
  }
  const Ort ort(base_of()->get_api(kApiVersion), version);
  try {
    ort.check_table();
  } catch (const Failure& failure) {
    throw unusable(library, failure.what());
  }
  return ort;
}

// Calls functions from all over the table whose answers are known.
void Ort::check_table() const {
  if (table_ == nullptr) throw invalid("it refuses version 23 of its API");
  const auto create = reinterpret_cast<OrtStatus* (*)(OrtErrorCode, const char*)>(
      table_[slot::CreateStatus.number]);
  OrtStatus* status = create(OrtErrorCode::kNotImplemented, "probe");
  const bool told = (*this)(slot::GetErrorCode, status) == OrtErrorCode::kNotImplemented &&
                    std::strcmp((*this)(slot::GetErrorMessage, status), "probe") == 0;
  (*this)(slot::ReleaseStatus, status);
  const std::string build = (*this)(slot::GetBuildInfoString);
  bool has_cpu = false;
  for (const auto& provider : providers()) has_cpu |= provider == "CPUExecutionProvider";
  if (!told || !has_cpu || build.find("ORT Build Info") == std::string::npos) {
    throw invalid("its functions are not where version 23 of the API has them");
  }
}

std::vector<std::string> Ort::providers() const {
  char** names = nullptr;
  int count = 0;
  (*this)(slot::GetAvailableProviders, &names, &count);
  std::vector<std::string> found(names, names + count);
  (*this)(slot::ReleaseAvailableProviders, names, count);
  return found;
}

void Ort::check_status(OrtStatus* status) const {
  if (status == nullptr) return;
  const Failure failure{
      triton_code((*this)(slot::GetErrorCode, status)),
      readable((*this)(slot::GetErrorMessage, status))};
  (*this)(slot::ReleaseStatus, status);
  throw failure;
}

std::string readable(const std::string& message) {
  std::string text = without_loading(message.substr(0, kLongestMessage));
  text = collapsed(without_sources(text));
  return bounded(text.empty() ? "ONNX Runtime gave no reason" : text);
}

}  // namespace tritonfleet
