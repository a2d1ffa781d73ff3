// Which kernel tables this machine can run.
#pragma once

#include <string>
#include <vector>

#include "kernels.h"

namespace deepserve {

// Best first; never empty.
std::vector<const Kernels *> runnable_kernels();

// The table of this name, or the best for null. Raises DS_INVALID naming what there is.
const Kernels &choose_kernels(const char *name);

}  // namespace deepserve
