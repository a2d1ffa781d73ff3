#include "workers.h"

#include <chrono>
#include <exception>
#include <system_error>

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#endif

namespace deepserve {

namespace {

// Longer than the gaps within a step, shorter than what would be missed by others on a shared machine.
constexpr auto kSpin = std::chrono::microseconds(50);

inline void relax() {
#if defined(__x86_64__) || defined(_M_X64)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

template <typename Done>
bool spin_until(const Done &done) {
  const auto end = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int i = 0; i < 64; i++) {
      if (done()) return true;
      relax();
    }
  } while (std::chrono::steady_clock::now() < end);
  return done();
}

}  // namespace

Workers::Workers(int num_threads) {
  threads_.reserve(static_cast<size_t>(num_threads));
  try {
    for (int worker = 1; worker < num_threads; worker++) threads_.emplace_back([this, worker] { serve(worker); });
  } catch (const std::system_error &) {
    // The threads there are will do.
  }
}

Workers::~Workers() {
  is_ending_ = true;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    round_++;
  }
  wake_.notify_all();
  for (std::thread &thread : threads_) thread.join();
}

void Workers::start(Call call, const void *context) {
  call_ = call;
  context_ = context;
  num_busy_.store(static_cast<int>(threads_.size()), std::memory_order_relaxed);
  round_.fetch_add(1);
  if (num_asleep_.load()) {
    // Whoever is between its last look at the round and its sleep holds the lock.
    {
      std::lock_guard<std::mutex> lock(mutex_);
    }
    wake_.notify_all();
  }
}

void Workers::wait() {
  // The others are at work: yielding beats spinning when there are more threads than cores.
  while (!spin_until([this] { return num_busy_.load(std::memory_order_acquire) == 0; })) std::this_thread::yield();
}

void Workers::serve(int worker) {
  // Gives the thread its place for exceptions now; when memory has run out the C library ends the process instead.
  volatile int pending = std::uncaught_exceptions();  // volatile: it is asked for its side effect
  (void)pending;
  uint64_t seen = 0;
  while (true) {
    const auto has_work = [this, seen] { return round_.load(std::memory_order_acquire) != seen; };
    if (!spin_until(has_work)) {
      std::unique_lock<std::mutex> lock(mutex_);
      num_asleep_++;
      // In one order with `start`, which raises the round and then looks who sleeps.
      wake_.wait(lock, [this, seen] { return round_.load() != seen; });
      num_asleep_--;
    }
    seen++;
    if (is_ending_) return;
    if (!call_(context_, worker)) is_out_of_memory_.store(true, std::memory_order_relaxed);
    num_busy_.fetch_sub(1, std::memory_order_release);
  }
}

}  // namespace deepserve
