// Lets a large allocation fail, as a very large one does without a sanitizer.
//
// The operators of a sanitizer end the process instead of throwing; what they can serve still
// goes to them.
#include <cstddef>
#include <new>

#include <dlfcn.h>

namespace {

constexpr std::size_t kLargest = std::size_t{256} << 20;

template <typename Function>
Function next(const char* name) {
  return reinterpret_cast<Function>(dlsym(RTLD_NEXT, name));
}

void refuse_too_large(std::size_t size) {
  if (size > kLargest) throw std::bad_alloc();
}

using New = void* (*)(std::size_t);
using AlignedNew = void* (*)(std::size_t, std::align_val_t);

}  // namespace

void* operator new(std::size_t size) {
  static const auto operator_new = next<New>("_Znwm");
  refuse_too_large(size);
  return operator_new(size);
}

void* operator new[](std::size_t size) {
  static const auto operator_new = next<New>("_Znam");
  refuse_too_large(size);
  return operator_new(size);
}

void* operator new(std::size_t size, std::align_val_t alignment) {
  static const auto operator_new = next<AlignedNew>("_ZnwmSt11align_val_t");
  refuse_too_large(size);
  return operator_new(size, alignment);
}

void* operator new[](std::size_t size, std::align_val_t alignment) {
  static const auto operator_new = next<AlignedNew>("_ZnamSt11align_val_t");
  refuse_too_large(size);
  return operator_new(size, alignment);
}
