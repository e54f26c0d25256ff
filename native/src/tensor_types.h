// The tensor types that Triton and ONNX Runtime both know.
#pragma once

#include <array>
#include <cstddef>
#include <optional>
#include <string_view>

#include "ort_api.h"
#include "triton_api.h"

namespace tritonfleet {

struct TensorType {
  std::string_view config_name;  // as config.pbtxt has it
  TRITONSERVER_DataType triton;
  OrtElementType ort;
  std::size_t byte_size;  // of one element; 0 for text
};

inline constexpr std::array<TensorType, 14> kTensorTypes{{
    {"TYPE_BOOL", TRITONSERVER_TYPE_BOOL, OrtElementType::kBool, 1},
    {"TYPE_UINT8", TRITONSERVER_TYPE_UINT8, OrtElementType::kUint8, 1},
    {"TYPE_UINT16", TRITONSERVER_TYPE_UINT16, OrtElementType::kUint16, 2},
    {"TYPE_UINT32", TRITONSERVER_TYPE_UINT32, OrtElementType::kUint32, 4},
    {"TYPE_UINT64", TRITONSERVER_TYPE_UINT64, OrtElementType::kUint64, 8},
    {"TYPE_INT8", TRITONSERVER_TYPE_INT8, OrtElementType::kInt8, 1},
    {"TYPE_INT16", TRITONSERVER_TYPE_INT16, OrtElementType::kInt16, 2},
    {"TYPE_INT32", TRITONSERVER_TYPE_INT32, OrtElementType::kInt32, 4},
    {"TYPE_INT64", TRITONSERVER_TYPE_INT64, OrtElementType::kInt64, 8},
    {"TYPE_FP16", TRITONSERVER_TYPE_FP16, OrtElementType::kFloat16, 2},
    {"TYPE_FP32", TRITONSERVER_TYPE_FP32, OrtElementType::kFloat, 4},
    {"TYPE_FP64", TRITONSERVER_TYPE_FP64, OrtElementType::kDouble, 8},
    {"TYPE_BF16", TRITONSERVER_TYPE_BF16, OrtElementType::kBfloat16, 2},
    {"TYPE_STRING", TRITONSERVER_TYPE_BYTES, OrtElementType::kString, 0},
}};

template <typename Key>
const TensorType* find_type(Key TensorType::* member, Key wanted) {
  for (const auto& type : kTensorTypes) {
    if (type.*member == wanted) return &type;
  }
  return nullptr;
}

}  // namespace tritonfleet
