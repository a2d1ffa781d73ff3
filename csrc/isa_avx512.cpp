#include "kernels.h"

#if !defined(DS_NO_AVX512) && defined(__AVX512BF16__)

#include "simd_avx512.h"

namespace deepserve {
namespace avx512 {
#include "multiply.inl"
#include "layers.inl"
#include "table.inl"
}  // namespace avx512

const Kernels *kernels_avx512() { return &avx512::kTable; }

}  // namespace deepserve

#else

const deepserve::Kernels *deepserve::kernels_avx512() { return nullptr; }

#endif
