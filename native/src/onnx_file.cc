#include "onnx_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <optional>
#include <unordered_set>

#include "failure.h"

namespace tritonfleet {
namespace {

// Smaller constants stay in the graph: shape inference reads them there.
constexpr std::size_t kLarge = 1024;

// Fields of onnx.proto.
constexpr std::uint64_t kModelGraph = 7;
constexpr std::uint64_t kGraphInitializer = 5;
constexpr std::uint64_t kGraphInput = 11;
constexpr std::uint64_t kValueInfoName = 1;
constexpr std::uint64_t kTensorDims = 1;
constexpr std::uint64_t kTensorDataType = 2;
constexpr std::uint64_t kTensorName = 8;
constexpr std::uint64_t kTensorRawData = 9;
constexpr std::uint64_t kTensorExternalData = 13;
constexpr std::uint64_t kTensorDataLocation = 14;
constexpr std::uint64_t kEntryKey = 1;
constexpr std::uint64_t kEntryValue = 2;
constexpr std::uint64_t kExternal = 1;

// Wire types of protobuf's encoding.
constexpr std::uint64_t kVarint = 0;
constexpr std::uint64_t kFixed64 = 1;
constexpr std::uint64_t kLengthDelimited = 2;
constexpr std::uint64_t kFixed32 = 5;

class Malformed : public std::exception {};

struct Field {
  std::uint64_t number = 0;
  std::uint64_t wire_type = 0;
  std::uint64_t varint = 0;
  std::string_view content;   // of a length-delimited field
  std::string_view encoding;  // the whole field as it stands in the message
};

// The fields of one message, in order.
class Fields {
 public:
  explicit Fields(std::string_view message) : rest_(message) {}

  std::optional<Field> next() {
    if (rest_.empty()) return std::nullopt;
    const std::string_view start = rest_;
    Field field;
    const std::uint64_t tag = varint();
    field.number = tag >> 3;
    field.wire_type = tag & 7;
    switch (field.wire_type) {
      case kVarint:
        field.varint = varint();
        break;
      case kLengthDelimited:
        field.content = take(varint());
        break;
      case kFixed64:
        take(8);
        break;
      case kFixed32:
        take(4);
        break;
      default:
        throw Malformed();
    }
    field.encoding = start.substr(0, start.size() - rest_.size());
    return field;
  }

  std::uint64_t varint() {
    std::uint64_t value = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
      const auto byte = static_cast<unsigned char>(take(1)[0]);
      value |= std::uint64_t{byte & 0x7FU} << shift;
      if (byte < 0x80) return value;
    }
    throw Malformed();
  }

  [[nodiscard]] bool empty() const noexcept { return rest_.empty(); }

 private:
  std::string_view take(std::uint64_t size) {
    if (size > rest_.size()) throw Malformed();
    const std::string_view taken = rest_.substr(0, size);
    rest_.remove_prefix(size);
    return taken;
  }

  std::string_view rest_;
};

void put_varint(std::string& out, std::uint64_t value) {
  for (; value >= 0x80; value >>= 7) out.push_back(static_cast<char>((value & 0x7F) | 0x80));
  out.push_back(static_cast<char>(value));
}

void put_varint_field(std::string& out, std::uint64_t number, std::uint64_t value) {
  put_varint(out, number << 3 | kVarint);
  put_varint(out, value);
}

void put_bytes_field(std::string& out, std::uint64_t number, std::string_view content) {
  put_varint(out, number << 3 | kLengthDelimited);
  put_varint(out, content.size());
  out.append(content);
}

void read_dims(const Field& field, std::vector<std::int64_t>& dims) {
  if (field.wire_type == kVarint) {
    dims.push_back(static_cast<std::int64_t>(field.varint));
    return;
  }
  for (Fields packed(field.content); !packed.empty();) {
    dims.push_back(static_cast<std::int64_t>(packed.varint()));
  }
}

// The bytes that a tensor of this type and shape has; nothing when it can have none.
std::optional<std::size_t> byte_size(
    const TensorType& type, const std::vector<std::int64_t>& dims) {
  std::size_t size = type.byte_size;
  for (const auto dim : dims) {
    if (dim < 0 || __builtin_mul_overflow(size, static_cast<std::size_t>(dim), &size)) {
      return std::nullopt;
    }
  }
  return size;
}

// The weight that a TensorProto describes, if it is one that can be handed over by address.
std::optional<Weight> read_weight(std::string_view tensor, std::string_view file) {
  Weight weight;
  Fields fields(tensor);
  while (const auto field = fields.next()) {
    if (field->number == kTensorDims) {
      read_dims(*field, weight.dims);
    } else if (field->number == kTensorDataType) {
      weight.type = find_type(&TensorType::ort, static_cast<OrtElementType>(field->varint));
    } else if (field->number == kTensorName) {
      weight.name = field->content;
    } else if (field->number == kTensorRawData && field->wire_type == kLengthDelimited) {
      weight.offset = static_cast<std::size_t>(field->content.data() - file.data());
      weight.size = field->content.size();
    }
  }
  const bool usable = weight.size >= kLarge && weight.type != nullptr &&
                      weight.type->byte_size > 0 && !weight.name.empty() &&
                      byte_size(*weight.type, weight.dims) == weight.size;
  return usable ? std::optional(weight) : std::nullopt;
}

void put_entry(std::string& tensor, std::string_view key, std::string_view value) {
  std::string entry;
  put_bytes_field(entry, kEntryKey, key);
  put_bytes_field(entry, kEntryValue, value);
  put_bytes_field(tensor, kTensorExternalData, entry);
}

// The TensorProto of a weight whose data are elsewhere.
std::string reference(const Weight& weight, const std::string& file_name) {
  std::string tensor;
  for (const auto dim : weight.dims) {
    put_varint_field(tensor, kTensorDims, static_cast<std::uint64_t>(dim));
  }
  put_varint_field(tensor, kTensorDataType, static_cast<std::uint64_t>(weight.type->ort));
  put_bytes_field(tensor, kTensorName, weight.name);
  put_entry(tensor, "location", file_name);
  put_entry(tensor, "offset", std::to_string(weight.offset));
  put_entry(tensor, "length", std::to_string(weight.size));
  put_varint_field(tensor, kTensorDataLocation, kExternal);
  return tensor;
}

// Constants that a caller may override are inputs, too, and stay where they are.
std::unordered_set<std::string> input_names(std::string_view graph) {
  std::unordered_set<std::string> names;
  Fields fields(graph);
  while (const auto field = fields.next()) {
    if (field->number != kGraphInput) continue;
    Fields value_info(field->content);
    while (const auto part = value_info.next()) {
      if (part->number == kValueInfoName) names.emplace(part->content);
    }
  }
  return names;
}

std::string outline_graph(
    std::string_view graph, std::string_view file, const std::string& file_name,
    bool aligned_only, std::vector<Weight>& weights) {
  const auto inputs = input_names(graph);
  std::unordered_set<std::string> seen;
  std::string light;
  Fields fields(graph);
  while (const auto field = fields.next()) {
    std::optional<Weight> weight;
    if (field->number == kGraphInitializer) weight = read_weight(field->content, file);
    const bool stays = !weight || inputs.count(weight->name) != 0 ||
                       (aligned_only && weight->offset % weight->type->byte_size != 0);
    if (stays) {
      light.append(field->encoding);
      continue;
    }
    if (!seen.insert(weight->name).second) throw Malformed();
    put_bytes_field(light, kGraphInitializer, reference(*weight, file_name));
    weights.push_back(std::move(*weight));
  }
  return light;
}

Failure unreadable(const std::string& path) {
  return invalid(path + " cannot be read: " + std::strerror(errno));
}

}  // namespace

Outline outline(std::string_view file, const std::string& file_name, bool aligned_only) {
  Outline result;
  try {
    bool graph_seen = false;
    Fields fields(file);
    while (const auto field = fields.next()) {
      if (field->number != kModelGraph) {
        result.proto.append(field->encoding);
        continue;
      }
      // Protobuf would merge two graphs; nobody writes them.
      if (graph_seen || field->wire_type != kLengthDelimited) throw Malformed();
      graph_seen = true;
      const std::string graph =
          outline_graph(field->content, file, file_name, aligned_only, result.weights);
      put_bytes_field(result.proto, kModelGraph, graph);
    }
    return result;
  } catch (const Malformed&) {
    return {std::string(file), {}};
  }
}

MappedFile::MappedFile(const std::string& path)
    : descriptor_(open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
  if (descriptor_ < 0) throw unreadable(path);
  struct stat status {};
  if (fstat(descriptor_, &status) != 0) {
    const Failure failure = unreadable(path);
    close(descriptor_);
    throw failure;
  }
  size_ = static_cast<std::size_t>(status.st_size);
  if (size_ == 0) return;  // which mmap refuses
  void* mapped = mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, descriptor_, 0);
  if (mapped == MAP_FAILED) {
    const Failure failure = unreadable(path);
    close(descriptor_);
    throw failure;
  }
  data_ = static_cast<const char*>(mapped);
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) munmap(const_cast<char*>(data_), size_);
  close(descriptor_);
}

MappedFile::Stamp MappedFile::stamp() const {
  struct stat status {};
  fstat(descriptor_, &status);
  return {
      static_cast<std::uint64_t>(status.st_dev), static_cast<std::uint64_t>(status.st_ino),
      status.st_mtim.tv_sec, status.st_mtim.tv_nsec};
}

void MappedFile::read(void* target, std::size_t offset, std::size_t size) const {
  auto* next = static_cast<char*>(target);
  while (size > 0) {
    const ssize_t got = pread(descriptor_, next, size, static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) throw invalid("the file has become shorter while it was read");
    next += got;
    offset += static_cast<std::size_t>(got);
    size -= static_cast<std::size_t>(got);
  }
}

}  // namespace tritonfleet
