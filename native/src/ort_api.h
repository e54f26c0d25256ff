// The part of ONNX Runtime's C API that this backend uses.
//
// The API is a table of functions whose slots never move: a new version only adds slots at the
// end. So a slot's number and signature are all that a caller needs; they are declared here from
// the documentation of OrtApi, and checked against the loaded library by ort.cc.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace tritonfleet {

struct OrtAllocator;
struct OrtArenaCfg;
struct OrtCUDAProviderOptionsV2;
struct OrtEnv;
struct OrtKeyValuePairs;
struct OrtMemoryInfo;
struct OrtRunOptions;
struct OrtSession;
struct OrtSessionOptions;
struct OrtStatus;
struct OrtTensorRTProviderOptionsV2;
struct OrtTensorTypeAndShapeInfo;
struct OrtThreadingOptions;
struct OrtTypeInfo;
struct OrtValue;

enum class OrtErrorCode : int {
  kOk = 0,
  kFail = 1,
  kInvalidArgument = 2,
  kNoSuchFile = 3,
  kNoModel = 4,
  kEngineError = 5,
  kRuntimeException = 6,
  kInvalidProtobuf = 7,
  kModelLoaded = 8,
  kNotImplemented = 9,
  kInvalidGraph = 10,
};

enum class OrtElementType : int {
  kUndefined = 0,
  kFloat = 1,
  kUint8 = 2,
  kInt8 = 3,
  kUint16 = 4,
  kInt16 = 5,
  kInt32 = 6,
  kInt64 = 7,
  kString = 8,
  kBool = 9,
  kFloat16 = 10,
  kDouble = 11,
  kUint32 = 12,
  kUint64 = 13,
  kBfloat16 = 16,
};

enum class OrtValueType : int { kUnknown = 0, kTensor = 1 };
enum class OrtLoggingLevel : int { kVerbose = 0, kInfo = 1, kWarning = 2, kError = 3, kFatal = 4 };
enum class OrtGraphOptimizationLevel : int { kNone = 0, kBasic = 1, kExtended = 2, kAll = 99 };
enum class OrtExecutionMode : int { kSequential = 0, kParallel = 1 };
enum class OrtAllocatorType : int { kDevice = 0, kArena = 1 };
enum class OrtMemoryType : int { kDefault = 0 };

using OrtLoggingFunction = void (*)(
    void* parameter, OrtLoggingLevel severity, const char* category, const char* log_id,
    const char* code_location, const char* message);

struct OrtApiBase {
  void* const* (*get_api)(std::uint32_t version);
  const char* (*get_version_string)();
};

template <typename Signature>
struct OrtSlot {
  std::size_t number;
};

// The slots, under their names in OrtApi. A function that returns OrtStatus* returns null when
// all is well.
namespace slot {

template <typename... Arguments>
using Fallible = OrtSlot<OrtStatus*(Arguments...)>;
template <typename Object>
using Release = OrtSlot<void(Object*)>;

inline constexpr OrtSlot<OrtStatus*(OrtErrorCode, const char*)> CreateStatus{0};
inline constexpr OrtSlot<OrtErrorCode(const OrtStatus*)> GetErrorCode{1};
inline constexpr OrtSlot<const char*(const OrtStatus*)> GetErrorMessage{2};
inline constexpr Fallible<
    const OrtEnv*, const void*, std::size_t, const OrtSessionOptions*, OrtSession**>
    CreateSessionFromArray{8};
inline constexpr Fallible<
    OrtSession*, const OrtRunOptions*, const char* const*, const OrtValue* const*, std::size_t,
    const char* const*, std::size_t, OrtValue**>
    Run{9};
inline constexpr Fallible<OrtSessionOptions**> CreateSessionOptions{10};
inline constexpr Fallible<OrtSessionOptions*, OrtExecutionMode> SetSessionExecutionMode{13};
inline constexpr Fallible<OrtSessionOptions*> DisableMemPattern{17};
inline constexpr Fallible<OrtSessionOptions*> DisableCpuMemArena{19};
inline constexpr Fallible<OrtSessionOptions*, int> SetSessionLogSeverityLevel{22};
inline constexpr Fallible<OrtSessionOptions*, OrtGraphOptimizationLevel>
    SetSessionGraphOptimizationLevel{23};
inline constexpr Fallible<OrtSessionOptions*, int> SetIntraOpNumThreads{24};
inline constexpr Fallible<OrtSessionOptions*, int> SetInterOpNumThreads{25};
inline constexpr Fallible<const OrtSession*, std::size_t*> SessionGetInputCount{30};
inline constexpr Fallible<const OrtSession*, std::size_t*> SessionGetOutputCount{31};
inline constexpr Fallible<const OrtSession*, std::size_t*> SessionGetOverridableInitializerCount{
    32};
inline constexpr Fallible<const OrtSession*, std::size_t, OrtTypeInfo**> SessionGetInputTypeInfo{
    33};
inline constexpr Fallible<const OrtSession*, std::size_t, OrtTypeInfo**> SessionGetOutputTypeInfo{
    34};
inline constexpr Fallible<const OrtSession*, std::size_t, OrtTypeInfo**>
    SessionGetOverridableInitializerTypeInfo{35};
inline constexpr Fallible<const OrtSession*, std::size_t, OrtAllocator*, char**>
    SessionGetInputName{36};
inline constexpr Fallible<const OrtSession*, std::size_t, OrtAllocator*, char**>
    SessionGetOutputName{37};
inline constexpr Fallible<const OrtSession*, std::size_t, OrtAllocator*, char**>
    SessionGetOverridableInitializerName{38};
inline constexpr Fallible<OrtRunOptions**> CreateRunOptions{39};
inline constexpr Fallible<OrtRunOptions*, int> RunOptionsSetRunLogSeverityLevel{41};
inline constexpr Fallible<
    OrtAllocator*, const std::int64_t*, std::size_t, OrtElementType, OrtValue**>
    CreateTensorAsOrtValue{48};
inline constexpr Fallible<
    const OrtMemoryInfo*, void*, std::size_t, const std::int64_t*, std::size_t, OrtElementType,
    OrtValue**>
    CreateTensorWithDataAsOrtValue{49};
inline constexpr Fallible<OrtValue*, void**> GetTensorMutableData{51};
inline constexpr Fallible<const OrtValue*, std::size_t*> GetStringTensorDataLength{53};
inline constexpr Fallible<const OrtValue*, void*, std::size_t, std::size_t*, std::size_t>
    GetStringTensorContent{54};
inline constexpr Fallible<const OrtTypeInfo*, const OrtTensorTypeAndShapeInfo**>
    CastTypeInfoToTensorInfo{55};
inline constexpr Fallible<const OrtTensorTypeAndShapeInfo*, OrtElementType*> GetTensorElementType{
    60};
inline constexpr Fallible<const OrtTensorTypeAndShapeInfo*, std::size_t*> GetDimensionsCount{61};
inline constexpr Fallible<const OrtTensorTypeAndShapeInfo*, std::int64_t*, std::size_t>
    GetDimensions{62};
inline constexpr Fallible<const OrtValue*, OrtTensorTypeAndShapeInfo**> GetTensorTypeAndShape{65};
inline constexpr Fallible<const OrtValue*, OrtValueType*> GetValueType{67};
inline constexpr Fallible<OrtAllocatorType, OrtMemoryType, OrtMemoryInfo**> CreateCpuMemoryInfo{69};
inline constexpr Fallible<OrtAllocator*, void*> AllocatorFree{76};
inline constexpr Fallible<OrtAllocator**> GetAllocatorWithDefaultOptions{78};
inline constexpr Release<OrtEnv> ReleaseEnv{92};
inline constexpr Release<OrtStatus> ReleaseStatus{93};
inline constexpr Release<OrtMemoryInfo> ReleaseMemoryInfo{94};
inline constexpr Release<OrtSession> ReleaseSession{95};
inline constexpr Release<OrtValue> ReleaseValue{96};
inline constexpr Release<OrtRunOptions> ReleaseRunOptions{97};
inline constexpr Release<OrtTypeInfo> ReleaseTypeInfo{98};
inline constexpr Release<OrtTensorTypeAndShapeInfo> ReleaseTensorTypeAndShapeInfo{99};
inline constexpr Release<OrtSessionOptions> ReleaseSessionOptions{100};
inline constexpr Fallible<OrtSessionOptions*> DisablePerSessionThreads{120};
inline constexpr Fallible<OrtThreadingOptions**> CreateThreadingOptions{121};
inline constexpr Release<OrtThreadingOptions> ReleaseThreadingOptions{122};
inline constexpr Fallible<char***, int*> GetAvailableProviders{125};
inline constexpr Fallible<char**, int> ReleaseAvailableProviders{126};
inline constexpr Fallible<OrtSessionOptions*, const char*, const char*> AddSessionConfigEntry{130};
inline constexpr Fallible<const OrtSession*, const OrtMemoryInfo*, OrtAllocator**> CreateAllocator{
    131};
inline constexpr Release<OrtAllocator> ReleaseAllocator{132};
inline constexpr Fallible<OrtThreadingOptions*, int> SetGlobalIntraOpNumThreads{147};
inline constexpr Fallible<OrtThreadingOptions*, int> SetGlobalInterOpNumThreads{148};
inline constexpr Fallible<OrtThreadingOptions*, int> SetGlobalSpinControl{149};
inline constexpr Fallible<OrtSessionOptions*, const char*, const OrtValue*> AddInitializer{150};
inline constexpr Fallible<
    OrtLoggingFunction, void*, OrtLoggingLevel, const char*, const OrtThreadingOptions*, OrtEnv**>
    CreateEnvWithCustomLoggerAndGlobalThreadPools{151};
inline constexpr Fallible<OrtRunOptions*, const char*, const char*> AddRunConfigEntry{165};
inline constexpr Fallible<OrtSessionOptions*, const OrtTensorRTProviderOptionsV2*>
    SessionOptionsAppendExecutionProvider_TensorRT_V2{170};
inline constexpr Fallible<OrtTensorRTProviderOptionsV2**> CreateTensorRTProviderOptions{171};
inline constexpr Fallible<
    OrtTensorRTProviderOptionsV2*, const char* const*, const char* const*, std::size_t>
    UpdateTensorRTProviderOptions{172};
inline constexpr Release<OrtTensorRTProviderOptionsV2> ReleaseTensorRTProviderOptions{174};
inline constexpr Fallible<OrtSessionOptions*, const OrtCUDAProviderOptionsV2*>
    SessionOptionsAppendExecutionProvider_CUDA_V2{204};
inline constexpr Fallible<OrtCUDAProviderOptionsV2**> CreateCUDAProviderOptions{205};
inline constexpr Fallible<
    OrtCUDAProviderOptionsV2*, const char* const*, const char* const*, std::size_t>
    UpdateCUDAProviderOptions{206};
inline constexpr Release<OrtCUDAProviderOptionsV2> ReleaseCUDAProviderOptions{208};
inline constexpr Fallible<OrtValue*, std::size_t, std::size_t, char**>
    GetResizedStringTensorElementBuffer{252};
inline constexpr OrtSlot<const char*()> GetBuildInfoString{254};
inline constexpr Fallible<
    OrtSessionOptions*, const char* const*, const char* const*, std::size_t>
    SessionOptionsAppendExecutionProvider_OpenVINO_V2{275};
inline constexpr Fallible<OrtSessionOptions*, bool> SessionOptionsSetLoadCancellationFlag{293};
inline constexpr OrtSlot<const char*(const OrtKeyValuePairs*, const char*)> GetKeyValue{297};
inline constexpr Release<OrtKeyValuePairs> ReleaseKeyValuePairs{300};
inline constexpr Fallible<const OrtAllocator*, OrtKeyValuePairs**> AllocatorGetStats{319};

}  // namespace slot
}  // namespace tritonfleet
