// Masks that another thread computes while the layers run; whoever draws waits for its own.
#pragma once

#include "deepserve_core.h"

namespace deepserve {

// Anything written before is seen by whoever waited.
void settle(ds_late_mask &mask, const uint8_t *bits, int64_t num_bytes);

// Returns once the mask is settled, however long that takes.
ds_mask_state wait_for(const ds_late_mask &mask);

}  // namespace deepserve
