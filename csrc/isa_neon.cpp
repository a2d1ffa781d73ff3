#include "kernels.h"

#if !defined(DS_NO_NEON) && defined(__ARM_FEATURE_DOTPROD)

#include "simd_neon.h"

namespace deepserve {
namespace neon {
#include "multiply.inl"
#include "layers.inl"
#include "table.inl"
}  // namespace neon

const Kernels *kernels_neon() { return &neon::kTable; }

}  // namespace deepserve

#else

const deepserve::Kernels *deepserve::kernels_neon() { return nullptr; }

#endif
