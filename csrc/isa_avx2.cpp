#include "kernels.h"

#if !defined(DS_NO_AVX2) && defined(__AVX2__)

#include "simd_avx2.h"

namespace deepserve {
namespace avx2 {
#include "multiply.inl"
#include "layers.inl"
#include "table.inl"
}  // namespace avx2

const Kernels *kernels_avx2() { return &avx2::kTable; }

}  // namespace deepserve

#else

const deepserve::Kernels *deepserve::kernels_avx2() { return nullptr; }

#endif
