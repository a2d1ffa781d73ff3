#include "kernels.h"

// Has no SIMD layer yet.
const deepserve::Kernels *deepserve::kernels_neon() { return nullptr; }
