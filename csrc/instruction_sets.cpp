#include "instruction_sets.h"

#if defined(__linux__) && defined(__aarch64__)
#include <sys/auxv.h>
#endif

#include "network.h"

namespace deepserve {

namespace {

#if defined(__x86_64__)
bool runs_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

bool runs_avx512() {
  return runs_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bf16") &&
         __builtin_cpu_supports("avx512vbmi");
}
#else
bool runs_avx2() { return false; }
bool runs_avx512() { return false; }
#endif

bool runs_neon() {
#if defined(__APPLE__) && defined(__aarch64__)
  return true;
#elif defined(__linux__) && defined(__aarch64__)
  constexpr unsigned long kDotProducts = 1ul << 20;  // HWCAP_ASIMDDP
  return getauxval(AT_HWCAP) & kDotProducts;
#else
  return false;
#endif
}

}  // namespace

std::vector<const Kernels *> runnable_kernels() {
  std::vector<const Kernels *> tables;
  const auto add = [&tables](bool runs, const Kernels *table) {
    if (runs && table) tables.push_back(table);
  };
  add(runs_avx512(), kernels_avx512());
  add(runs_avx2(), kernels_avx2());
  add(runs_neon(), kernels_neon());
  add(true, kernels_generic());
  return tables;
}

const Kernels &choose_kernels(const char *name) {
  const std::vector<const Kernels *> tables = runnable_kernels();
  if (!name) return *tables.front();
  std::string known;
  for (const Kernels *table : tables) {
    if (std::string(table->name) == name) return *table;
    known += (known.empty() ? "" : ", ") + std::string(table->name);
  }
  fail(DS_INVALID,
       "instruction set " + std::string(name) + " is not in this build or not on this machine, which has " + known);
}

size_t attend_scratch(int heads, int num_rows, size_t stride) {
  const size_t padded = static_cast<size_t>(num_rows + 15) / 16 * 16;
  return static_cast<size_t>(heads) * (2 * padded + stride + 1) + 16 * stride;
}

size_t index_scratch(int heads, int width) {
  const size_t padded = static_cast<size_t>(width + 31) / 32 * 32;
  return static_cast<size_t>(heads) * (2 + padded / 4);
}

}  // namespace deepserve
