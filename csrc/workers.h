// Threads that split one piece of work. They spin a few ten microseconds for the next piece, then sleep.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <new>
#include <thread>
#include <vector>

namespace deepserve {

class Workers {
 public:
  // num_threads counts the calling one. Fewer are started if the system refuses more.
  explicit Workers(int num_threads);
  ~Workers();
  Workers(const Workers &) = delete;
  Workers &operator=(const Workers &) = delete;

  int num_threads() const { return static_cast<int>(threads_.size()) + 1; }

  // Call work(worker) for every worker in 0..num_threads-1, this thread being worker 0; returns when all are done.
  // Work may throw std::bad_alloc and nothing else; once all are done it is thrown here.
  template <typename Work>
  void run(const Work &work) {
    if (threads_.empty()) {
      work(0);
      return;
    }
    const Call call = [](const void *context, int worker) {
      try {
        (*static_cast<const Work *>(context))(worker);
        return true;
      } catch (const std::bad_alloc &) {
        return false;
      }
    };
    start(call, &work);
    const bool has_memory = call(&work, 0);
    wait();
    if (is_out_of_memory_.exchange(false) || !has_memory) throw std::bad_alloc();
  }

 private:
  using Call = bool (*)(const void *context, int worker);  // -> whether memory sufficed
  void start(Call call, const void *context);
  void wait();
  void serve(int worker);

  std::vector<std::thread> threads_;
  std::mutex mutex_;
  std::condition_variable wake_;
  Call call_ = nullptr;
  const void *context_ = nullptr;
  std::atomic<uint64_t> round_{0};
  std::atomic<int> num_busy_{0};
  std::atomic<int> num_asleep_{0};
  std::atomic<bool> is_out_of_memory_{false};
  std::atomic<bool> is_ending_{false};
};

}  // namespace deepserve
