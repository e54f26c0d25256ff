#include "accelerators.h"

#include <algorithm>
#include <array>
#include <map>
#include <string>
#include <string_view>

#include "joined.h"

namespace tritonfleet {
namespace {

// The execution providers behind the names that Triton documents.
constexpr std::array<std::pair<std::string_view, std::string_view>, 3> kProviders{{
    {"tensorrt", "TensorrtExecutionProvider"},
    {"cuda", "CUDAExecutionProvider"},
    {"openvino", "OpenVINOExecutionProvider"},
}};

// Parameters of the tensorrt accelerator whose names in Triton differ from ONNX Runtime's.
constexpr std::array<std::pair<std::string_view, std::string_view>, 3> kTensorRtNames{{
    {"max_workspace_size_bytes", "trt_max_workspace_size"},
    {"int8_calibration_table_name", "trt_int8_calibration_table_name"},
    {"int8_use_native_calibration_table", "trt_int8_use_native_calibration_table"},
}};

template <typename Table>
std::string_view find(const Table& table, std::string_view key) {
  for (const auto& [name, value] : table) {
    if (name == key) return value;
  }
  return {};
}

void require_provider(const Ort& ort, const std::string& name) {
  const std::string_view provider = find(kProviders, name);
  if (provider.empty()) {
    throw invalid(
        "execution accelerator '" + name +
        "' in config.pbtxt is not known; there are tensorrt, cuda and openvino");
  }
  const auto available = ort.providers();
  if (std::find(available.begin(), available.end(), provider) == available.end()) {
    throw Failure(
        TRITONSERVER_ERROR_UNSUPPORTED,
        "execution accelerator '" + name + "' in config.pbtxt needs " + std::string(provider) +
            ", and ONNX Runtime " + ort.version() + " here has only " + joined(available, ", "));
  }
}

std::map<std::string, std::string> tensorrt_options(const Accelerator& accelerator) {
  std::map<std::string, std::string> options;
  for (const auto& [key, value] : accelerator.parameters) {
    if (key == "precision_mode") {
      if (value == "FP16") options["trt_fp16_enable"] = "1";
      if (value == "INT8") options["trt_int8_enable"] = "1";
      continue;
    }
    const std::string_view renamed = find(kTensorRtNames, key);
    options[renamed.empty() ? key : std::string(renamed)] = value;
  }
  return options;
}

// Calls `use` with the options in the form that ONNX Runtime takes: two arrays of C strings.
template <typename Use>
void with_arrays(const std::map<std::string, std::string>& options, Use use) {
  std::vector<const char*> keys;
  std::vector<const char*> values;
  for (const auto& [key, value] : options) {
    keys.push_back(key.c_str());
    values.push_back(value.c_str());
  }
  use(keys.data(), values.data(), keys.size());
}

void append_tensorrt(const Ort& ort, OrtSessionOptions* options, const Accelerator& accelerator) {
  OrtTensorRTProviderOptionsV2* provider = nullptr;
  ort(slot::CreateTensorRTProviderOptions, &provider);
  const Owned owned(ort, slot::ReleaseTensorRTProviderOptions, provider);
  with_arrays(tensorrt_options(accelerator), [&](auto keys, auto values, auto count) {
    ort(slot::UpdateTensorRTProviderOptions, provider, keys, values, count);
  });
  ort(slot::SessionOptionsAppendExecutionProvider_TensorRT_V2, options, provider);
}

void append_cuda(const Ort& ort, OrtSessionOptions* options, const Accelerator& accelerator) {
  OrtCUDAProviderOptionsV2* provider = nullptr;
  ort(slot::CreateCUDAProviderOptions, &provider);
  const Owned owned(ort, slot::ReleaseCUDAProviderOptions, provider);
  with_arrays(accelerator.parameters, [&](auto keys, auto values, auto count) {
    ort(slot::UpdateCUDAProviderOptions, provider, keys, values, count);
  });
  ort(slot::SessionOptionsAppendExecutionProvider_CUDA_V2, options, provider);
}

void append_openvino(const Ort& ort, OrtSessionOptions* options, const Accelerator& accelerator) {
  with_arrays(accelerator.parameters, [&](auto keys, auto values, auto count) {
    ort(slot::SessionOptionsAppendExecutionProvider_OpenVINO_V2, options, keys, values, count);
  });
}

}  // namespace

void append_accelerators(
    const Ort& ort, OrtSessionOptions* options, const std::vector<Accelerator>& accelerators) {
  for (const auto& accelerator : accelerators) {
    require_provider(ort, accelerator.name);
    if (accelerator.name == "tensorrt") {
      append_tensorrt(ort, options, accelerator);
    } else if (accelerator.name == "cuda") {
      append_cuda(ort, options, accelerator);
    } else {
      append_openvino(ort, options, accelerator);
    }
  }
}

}  // namespace tritonfleet
