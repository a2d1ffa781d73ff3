#include "kernels.h"
#include "simd_generic.h"

namespace deepserve {
namespace generic {
#include "multiply.inl"
#include "layers.inl"
#include "table.inl"
}  // namespace generic

const Kernels *kernels_generic() { return &generic::kTable; }

}  // namespace deepserve
