// The C ABI: everything that can go wrong behind it becomes a status and a sentence here.

#include <chrono>
#include <cstdio>
#include <cstring>
#include <new>
#include <string>
#include <vector>

#if defined(__unix__) || defined(__APPLE__)
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#define DS_HAS_MMAP 1
#endif

#include "deepserve_core.h"
#include "engine.h"
#include "instruction_sets.h"
#include "late_mask.h"

using deepserve::Engine;
using deepserve::fail;
using deepserve::Fault;

struct ds_engine {
  Engine engine;
};

namespace {

void tell(ds_fault *fault, const char *message) {
  if (fault) std::snprintf(fault->message, sizeof fault->message, "%s", message);
}

template <typename Work>
int32_t guarded(ds_fault *fault, const Work &work) {
  try {
    work();
    return DS_OK;
  } catch (const Fault &raised) {
    tell(fault, raised.message.c_str());
    return raised.status;
  } catch (const std::bad_alloc &) {
    tell(fault, "the machine has not enough memory");
    return DS_OUT_OF_MEMORY;
  } catch (const std::exception &raised) {
    tell(fault, raised.what());
    return DS_INVALID;
  }
}

template <typename... Pointers>
void need(const Pointers *...pointers) {
  for (const void *pointer : {static_cast<const void *>(pointers)...})
    if (!pointer) fail(DS_INVALID, "an argument is missing");
}

}  // namespace

int32_t ds_abi_version(void) { return DS_ABI_VERSION; }

const char *ds_isas(void) {
  static const std::string names = [] {
    std::string joined;
    for (const deepserve::Kernels *table : deepserve::runnable_kernels())
      joined += (joined.empty() ? "" : ",") + std::string(table->name);
    return joined;
  }();
  return names.c_str();
}

int32_t ds_engine_new(const ds_network *network, const ds_options *options, ds_engine **engine, ds_fault *fault) {
  return guarded(fault, [&] {
    need(network, options, engine);
    *engine = nullptr;
    if (network->abi_version != DS_ABI_VERSION)
      fail(DS_INVALID, "the caller speaks version " + std::to_string(network->abi_version) +
                           " of the ABI, this core version " + std::to_string(DS_ABI_VERSION));
    *engine = new ds_engine{Engine(*network, *options)};
  });
}

void ds_engine_delete(ds_engine *engine) { delete engine; }

int32_t ds_engine_put(ds_engine *engine, int32_t tensor, int32_t layer, int32_t expert, const ds_array *array,
                      const ds_array *scale, ds_fault *fault) {
  return guarded(fault, [&] {
    need(engine, array);
    engine->engine.network.put(static_cast<ds_tensor>(tensor), layer, expert, *array, scale);
  });
}

int32_t ds_engine_seal(ds_engine *engine, ds_fault *fault) {
  return guarded(fault, [&] {
    need(engine);
    engine->engine.seal();
  });
}

void ds_engine_info(const ds_engine *engine, ds_info *info) {
  if (engine && info) *info = engine->engine.info();
}

int32_t ds_engine_save_packed(const ds_engine *engine, const char *path, const uint8_t *key, ds_fault *fault) {
  return guarded(fault, [&] {
    need(engine, path, key);
    engine->engine.network.save_packed(path, key);
  });
}

int32_t ds_engine_load_packed(ds_engine *engine, const char *path, const uint8_t *key, ds_fault *fault) {
  return guarded(fault, [&] {
    need(engine, path, key);
    engine->engine.load_packed(path, key);
  });
}

int32_t ds_sequence_new(ds_engine *engine, int64_t *sequence, ds_fault *fault) {
  return guarded(fault, [&] {
    need(engine, sequence);
    *sequence = engine->engine.pool().create();
  });
}

int32_t ds_sequence_fork(ds_engine *engine, int64_t sequence, int64_t *fork, ds_fault *fault) {
  return guarded(fault, [&] {
    need(engine, fork);
    *fork = engine->engine.pool().fork(sequence);
  });
}

int32_t ds_sequence_free(ds_engine *engine, int64_t sequence, ds_fault *fault) {
  return guarded(fault, [&] {
    need(engine);
    engine->engine.pool().free(sequence);
  });
}

int32_t ds_sequence_length(const ds_engine *engine, int64_t sequence, int64_t *length, ds_fault *fault) {
  return guarded(fault, [&] {
    need(engine, length);
    *length = engine->engine.pool().at(sequence).length;
  });
}

int32_t ds_sequence_blob_size(const ds_engine *engine, int64_t sequence, int64_t *size_bytes, ds_fault *fault) {
  return guarded(fault, [&] {
    need(engine, size_bytes);
    const deepserve::StatePool &pool = engine->engine.pool();
    *size_bytes = pool.blob_bytes(pool.at(sequence));
  });
}

int32_t ds_sequence_save(const ds_engine *engine, int64_t sequence, void *blob, int64_t size_bytes, ds_fault *fault) {
  return guarded(fault, [&] {
    need(engine, blob);
    const deepserve::StatePool &pool = engine->engine.pool();
    pool.save(pool.at(sequence), static_cast<uint8_t *>(blob), size_bytes);
  });
}

int32_t ds_sequence_load(ds_engine *engine, const void *blob, int64_t size_bytes, int64_t *sequence, ds_fault *fault) {
  return guarded(fault, [&] {
    need(engine, blob, sequence);
    *sequence = engine->engine.pool().load(static_cast<const uint8_t *>(blob), size_bytes);
  });
}

int32_t ds_step(ds_engine *engine, const ds_row *rows, int32_t num_rows, ds_drawn *drawn, ds_fault *fault) {
  const int32_t status = guarded(fault, [&] {
    need(engine);
    engine->engine.step(rows, num_rows, drawn);
  });
  // Not every row gets as far as its draw; but once this returns, nobody computes a mask for it any more.
  for (int32_t i = 0; rows && i < num_rows; i++)
    if (rows[i].want == DS_WANT_TOKEN && rows[i].draw && rows[i].draw->late_mask)
      deepserve::wait_for(*rows[i].draw->late_mask);
  return status;
}

void ds_mask_settle(ds_late_mask *mask, const uint8_t *bits, int64_t num_bytes) {
  if (mask) deepserve::settle(*mask, bits, num_bytes);
}

const void *ds_file_map(const char *path, int64_t *size_bytes, ds_fault *fault) {
  const void *mapped = nullptr;
  guarded(fault, [&] {
    need(path, size_bytes);
#ifdef DS_HAS_MMAP
    const int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) fail(DS_IO, std::string(path) + ": " + std::strerror(errno));
    struct stat status;
    void *data = MAP_FAILED;
    if (fstat(file, &status) == 0 && status.st_size > 0)
      data = mmap(nullptr, static_cast<size_t>(status.st_size), PROT_READ, MAP_PRIVATE, file, 0);
    const int error = errno;
    close(file);
    if (data == MAP_FAILED) fail(DS_IO, std::string(path) + ": cannot be mapped into memory: " + std::strerror(error));
    *size_bytes = status.st_size;
    mapped = data;
#else
    // Without memory maps the file is read.
    std::FILE *file = std::fopen(path, "rb");
    if (!file) fail(DS_IO, std::string(path) + ": cannot be read");
    std::fseek(file, 0, SEEK_END);
    const long size = std::ftell(file);
    std::rewind(file);
    auto *data = size > 0 ? new (std::nothrow) uint8_t[static_cast<size_t>(size)] : nullptr;
    const bool is_read = data && std::fread(data, 1, static_cast<size_t>(size), file) == static_cast<size_t>(size);
    std::fclose(file);
    if (!is_read) {
      delete[] data;
      fail(DS_IO, std::string(path) + ": cannot be read whole");
    }
    *size_bytes = size;
    mapped = data;
#endif
  });
  return mapped;
}

void ds_file_unmap(const void *data, int64_t size_bytes) {
  if (!data) return;
#ifdef DS_HAS_MMAP
  munmap(const_cast<void *>(data), static_cast<size_t>(size_bytes));
#else
  (void)size_bytes;
  delete[] static_cast<const uint8_t *>(data);
#endif
}

double ds_measure_read_bandwidth(int64_t size_bytes, int32_t num_threads) {
  if (size_bytes < 4096 || num_threads < 1) return -1.0;
  double best = -1.0;
  guarded(nullptr, [&] {
    deepserve::Workers workers(num_threads);
    std::vector<deepserve::Pages> areas;
    for (int i = 0; i < workers.num_threads(); i++) areas.emplace_back(static_cast<size_t>(size_bytes), true);
    std::vector<uint64_t> sums(areas.size());
    const auto read = [&](int worker) {
      const auto *words = reinterpret_cast<const uint64_t *>(areas[static_cast<size_t>(worker)].data());
      uint64_t sum[8] = {};
      for (size_t i = 0; i + 8 <= static_cast<size_t>(size_bytes) / 8; i += 8)
        for (int lane = 0; lane < 8; lane++) sum[lane] += words[i + static_cast<size_t>(lane)];
      for (uint64_t part : sum) sums[static_cast<size_t>(worker)] += part;
    };
    workers.run([&](int worker) {
      std::memset(areas[static_cast<size_t>(worker)].data(), 1, static_cast<size_t>(size_bytes));
    });
    for (int trial = 0; trial < 3; trial++) {
      const auto start = std::chrono::steady_clock::now();
      workers.run(read);
      const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
      const double bytes = static_cast<double>(size_bytes) * static_cast<double>(areas.size());
      if (sums[0]) best = std::max(best, bytes / taken.count());
    }
  });
  return best;
}

int32_t ds_test_multiply(const char *isa, int32_t format, const ds_array *weights, const ds_array *scale,
                         const float *x, int32_t rows, float *out, ds_fault *fault) {
  return guarded(fault, [&] {
    need(weights, x, out);
    if (format < 0 || format >= DS_NUM_FORMATS || rows < 1 || weights->rank != 2)
      fail(DS_INVALID, "nothing to multiply");
    const deepserve::Kernels &kernels = deepserve::choose_kernels(isa);
    deepserve::Source source;
    source.dtype = static_cast<ds_dtype>(weights->dtype);
    source.rows = static_cast<int>(weights->shape[0]);
    source.columns = static_cast<int>(weights->shape[1]) * (weights->dtype == DS_FP4 ? 2 : 1);
    source.data = static_cast<const uint8_t *>(weights->data);
    if (scale) {
      source.scales = static_cast<const uint8_t *>(scale->data);
      source.scale_dtype = static_cast<ds_dtype>(scale->dtype);
    }
    if (deepserve::has_bad_values(source)) fail(DS_CHECKPOINT, "the weights hold values that are not finite");
    deepserve::Matrix matrix;
    matrix.format = static_cast<ds_format>(format);
    matrix.inputs = source.columns;
    matrix.outputs = source.rows;
    deepserve::lay_out(matrix);
    deepserve::Pages packed;
    if (matrix.is_packed()) {
      packed = deepserve::Pages(static_cast<size_t>(matrix.num_blocks) * matrix.block_bytes, false);
      matrix.data = packed.data();
      deepserve::pack(source, matrix, 0, packed.data());
    } else {
      matrix.data = source.data;
      matrix.row_bytes = static_cast<size_t>(weights->size_bytes / source.rows);
      matrix.scales = source.scales;
      if (scale) matrix.scale_row_bytes = static_cast<size_t>(scale->shape[1]);
    }
    deepserve::Activations a;
    a.rows = rows;
    a.inputs = source.columns;
    a.stride = static_cast<size_t>(source.columns + deepserve::kInputPadding - 1) / deepserve::kInputPadding *
               deepserve::kInputPadding;
    const size_t count = a.stride * static_cast<size_t>(rows);
    std::vector<float> padded(count, 0.0f), scales(count), products;
    std::vector<uint16_t> bf16(count), bf16_fp4(count);
    std::vector<int8_t> int8(count), int8_mapped(count);
    std::vector<int32_t> sums(count);
    for (int r = 0; r < rows; r++)
      std::memcpy(padded.data() + static_cast<size_t>(r) * a.stride, x + static_cast<size_t>(r) * source.columns,
                  sizeof(float) * static_cast<size_t>(source.columns));
    a.f32 = padded.data();
    a.f32_stride = a.stride;
    a.bf16 = bf16.data();
    a.bf16_fp4 = bf16_fp4.data();
    a.int8 = int8.data();
    a.int8_mapped = int8_mapped.data();
    a.int8_scales = scales.data();
    a.int8_sums = sums.data();
    const deepserve::ActivationForm form = deepserve::activation_form(matrix.format);
    if (form != deepserve::ActivationForm::kF32) kernels.prepare(a, form, 0, rows);
    const size_t stride = static_cast<size_t>(matrix.num_blocks) * deepserve::kBlockColumns;
    products.resize(stride * static_cast<size_t>(rows));
    kernels.multiply[format](matrix, a, rows, 0, matrix.num_blocks, products.data(), stride);
    for (int r = 0; r < rows; r++)
      std::memcpy(out + static_cast<size_t>(r) * matrix.outputs, products.data() + static_cast<size_t>(r) * stride,
                  sizeof(float) * static_cast<size_t>(matrix.outputs));
  });
}

int32_t ds_test_select(const char *isa, const float *scores, int32_t count, int32_t number, int32_t *chosen,
                       ds_fault *fault) {
  return guarded(fault, [&] {
    need(scores, chosen);
    if (number < 1 || count < number)
      fail(DS_INVALID, "cannot choose " + std::to_string(number) + " of " + std::to_string(count));
    const deepserve::Kernels &kernels = deepserve::choose_kernels(isa);
    std::vector<float> scratch(6 * static_cast<size_t>(number) + 48);
    kernels.select_best(scores, count, number, scratch.data(), chosen);
  });
}
