#include "kernels.h"

// Has no SIMD layer yet.
const deepserve::Kernels *deepserve::kernels_avx2() { return nullptr; }
