#include "late_mask.h"

#include <chrono>
#include <thread>

namespace deepserve {

namespace {

constexpr int kTurns = 200;  // given away before going to sleep: a mask takes some ten microseconds
constexpr std::chrono::microseconds kNap{50};

}  // namespace

void settle(ds_late_mask &mask, const uint8_t *bits, int64_t num_bytes) {
  mask.bits = bits;
  mask.num_bytes = num_bytes;
  __atomic_store_n(&mask.state, bits ? DS_MASK_READY : DS_MASK_FAILED, __ATOMIC_RELEASE);
}

ds_mask_state wait_for(const ds_late_mask &mask) {
  for (int turn = 0;; turn++) {
    const int32_t state = __atomic_load_n(&mask.state, __ATOMIC_ACQUIRE);
    if (state != DS_MASK_AWAITED) return static_cast<ds_mask_state>(state);
    if (turn < kTurns)
      std::this_thread::yield();
    else
      std::this_thread::sleep_for(kNap);
  }
}

}  // namespace deepserve
