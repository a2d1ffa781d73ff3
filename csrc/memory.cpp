#include "memory.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>

#if defined(__unix__) || defined(__APPLE__)
#include <sys/mman.h>
#define DS_HAS_MMAP 1
#endif

// The address sanitizer knows allocations; what lies between pieces of one allocation it must be told.
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#define DS_PERMIT(data, size_bytes) __asan_unpoison_memory_region(data, size_bytes)
#define DS_FORBID(data, size_bytes) __asan_poison_memory_region(data, size_bytes)
#else
#define DS_PERMIT(data, size_bytes) (void)(data)
#define DS_FORBID(data, size_bytes) (void)(data)
#endif

namespace deepserve {

namespace {
constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kSmallestArea = 2 * kHugePage;  // of scratch
#if defined(__SANITIZE_ADDRESS__)
constexpr size_t kGap = kAlignment;  // between pieces of scratch
#else
constexpr size_t kGap = 0;
#endif
}  // namespace

Pages::Pages(size_t size_bytes, bool wants_huge) {
  if (size_bytes == 0) return;
#ifdef DS_HAS_MMAP
  // A whole number of huge pages, from an address that starts one: else the first and last megabytes have none.
  const size_t size = (size_bytes + kHugePage - 1) / kHugePage * kHugePage;
  if (size < size_bytes) throw std::bad_alloc();
  int flags = MAP_PRIVATE | MAP_ANONYMOUS;
#ifdef MAP_NORESERVE
  flags |= MAP_NORESERVE;
#endif
  void *data = mmap(nullptr, size + kHugePage, PROT_READ | PROT_WRITE, flags, -1, 0);
  if (data == MAP_FAILED) throw std::bad_alloc();
  auto *begin = static_cast<uint8_t *>(data);
  const size_t before = (kHugePage - reinterpret_cast<uintptr_t>(begin) % kHugePage) % kHugePage;
  if (before) munmap(begin, before);
  if (before < kHugePage) munmap(begin + before + size, kHugePage - before);
  data_ = begin + before;
  size_bytes_ = size;
  DS_FORBID(data_ + size_bytes, size - size_bytes);
#ifdef MADV_HUGEPAGE
  if (wants_huge) madvise(data_, size_bytes_, MADV_HUGEPAGE);
#else
  (void)wants_huge;
#endif
#else
  (void)wants_huge;
  data_ = static_cast<uint8_t *>(::operator new(size_bytes, std::align_val_t(kAlignment)));
  std::memset(data_, 0, size_bytes);
  size_bytes_ = size_bytes;
#endif
}

Pages::Pages(Pages &&other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_bytes_(std::exchange(other.size_bytes_, 0)) {}

Pages &Pages::operator=(Pages &&other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_bytes_, other.size_bytes_);
  return *this;
}

Pages::~Pages() {
  if (!data_) return;
#ifdef DS_HAS_MMAP
  DS_PERMIT(data_, size_bytes_);
  munmap(data_, size_bytes_);
#else
  ::operator delete(data_, std::align_val_t(kAlignment));
#endif
}

int has_huge_pages(const void *data) {
#if defined(__linux__)
  std::FILE *file = std::fopen("/proc/self/smaps", "re");
  if (!file) return -1;
  const auto address = reinterpret_cast<uintptr_t>(data);
  char line[512];
  bool is_inside = false;
  int found = -1;
  while (found < 0 && std::fgets(line, sizeof line, file)) {
    unsigned long long begin = 0, end = 0, size_kib = 0;
    char colon = 0;
    if (std::sscanf(line, "%llx-%llx%c", &begin, &end, &colon) == 3 && colon == ' ') {
      is_inside = begin <= address && address < end;
    } else if (is_inside && std::sscanf(line, "AnonHugePages: %llu", &size_kib) == 1) {
      found = size_kib > 0;
    }
  }
  std::fclose(file);
  return found;
#else
  (void)data;
  return -1;
#endif
}

void Scratch::reset() {
  if (areas_.size() > 1) {
    size_t total = 0;
    for (const Pages &area : areas_) total += area.size_bytes();
    at_ = Mark();
    areas_.clear();  // first give the old ones back, then ask for the large one
    areas_.emplace_back(total, true);
  }
  at_ = Mark();
}

void *Scratch::take_bytes(size_t size_bytes) {
  const size_t size = aligned(size_bytes) + kGap;
  while (at_.area < areas_.size() && at_.used + size > areas_[at_.area].size_bytes()) at_ = {at_.area + 1, 0};
  if (at_.area == areas_.size()) areas_.emplace_back(size > kSmallestArea ? size : kSmallestArea, true);
  uint8_t *piece = areas_[at_.area].data() + at_.used;
  at_.used += size;
  DS_PERMIT(piece, size_bytes);
  DS_FORBID(piece + size_bytes, size - size_bytes);
  return piece;
}

}  // namespace deepserve
