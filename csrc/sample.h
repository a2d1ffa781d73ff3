// From the logits of one position to a token, exactly as `Draw` in engine/interface.py orders it.
#pragma once

#include "kernels.h"
#include "memory.h"

namespace deepserve {

// logits [vocab_size]. The scratch is used from its mark on and given back.
void draw_token(const float *logits, int vocab_size, const ds_draw &draw, const Kernels &kernels, Scratch &scratch,
                ds_drawn &drawn);

// The uniform number in [0, 1) of one draw: SplitMix64 (Steele, Lea, Flood 2014) at a counter.
double uniform(uint64_t seed, uint64_t position);

}  // namespace deepserve
