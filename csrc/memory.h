// Memory the engine takes from the operating system, and a scratch area that is reused from step to step.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <vector>

namespace deepserve {

constexpr size_t kAlignment = 64;

inline size_t aligned(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

// Zeroed pages, huge ones where the system has them; given by the system as they are touched.
// Throws std::bad_alloc.
class Pages {
 public:
  Pages() = default;
  Pages(size_t size_bytes, bool wants_huge);
  Pages(Pages &&other) noexcept;
  Pages &operator=(Pages &&other) noexcept;
  ~Pages();

  uint8_t *data() const { return data_; }
  size_t size_bytes() const { return size_bytes_; }

 private:
  uint8_t *data_ = nullptr;
  size_t size_bytes_ = 0;
};

// 1 if the region is backed by huge pages, 0 if not, -1 where the system does not say.
int has_huge_pages(const void *data);

// Hands out pieces of memory that is reused from step to step; a step that needs more than any before gets more areas,
// the next one a single area of their size.
class Scratch {
 public:
  struct Mark {
    size_t area = 0, used = 0;
  };

  template <typename T>
  T *take(size_t count) {
    return static_cast<T *>(take_bytes(count * sizeof(T)));
  }
  Mark mark() const { return at_; }
  // Give back everything taken since; only in order.
  void release(Mark mark) { at_ = mark; }
  void reset();

 private:
  void *take_bytes(size_t size_bytes);

  std::vector<Pages> areas_;
  Mark at_;
};

}  // namespace deepserve
