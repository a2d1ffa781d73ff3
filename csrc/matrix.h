// Weight matrices as kernels read them, and the activations they are multiplied with.
//
// Packed layouts: outputs in blocks of 64 columns, each block one sequential stream along the inputs (k). Lanes run
// along the outputs, activations are broadcast, so one row and many rows add in the same order and there is no
// horizontal sum. Per 64-column block (sizes in bytes; column c, little endian):
//
//   F32   for each k: 64 floats
//   BF16  for each pair of k: 64 x (even k, odd k)
//   INT8  for each group of 64 k: 16 steps of 4 k, each 64 x 4 bytes (value + 128); then 64 float scales
//   FP4   for each group of 32 k: 4 steps of 8 k, each 64 x 4 bytes; then 64 E8M0 scale bytes. Byte b of a column holds
//         k + b in its low and k + 4 + b in its high nibble
//   FP8   for each group of 128 k: 32 steps of 4 k, each 256 bytes: per 4 columns first their (k, k+1), then their
//         (k+2, k+3); then one float scale, padded to 64 bytes
//
// The inputs are padded with zero weights to a whole group (F32: 1, BF16: 2), the outputs to a whole block.
// Mapped layouts are the checkpoint's own: rows of inputs, one per output.
#pragma once

#include <cstddef>
#include <cstdint>

#include "deepserve_core.h"

namespace deepserve {

constexpr int kBlockColumns = 64;
constexpr int kInt8Group = 64;
constexpr int kFp4Group = 32;
constexpr int kFp8Group = 128;
constexpr int kActivationGroup = 64;  // inputs that share one scale when activations are int8
constexpr int kInputPadding = 128;    // activations have zeros up to a multiple of this

enum class ActivationForm { kF32, kBf16, kBf16Fp4Order, kInt8, kInt8Mapped };
constexpr int kNumActivationForms = 5;

struct Matrix {
  ds_format format = DS_FORMAT_F32;
  int inputs = 0, outputs = 0;
  int num_blocks = 0;      // of kBlockColumns outputs
  size_t block_bytes = 0;  // packed only: from one block to the next
  const uint8_t *data = nullptr;
  // Mapped only.
  size_t row_bytes = 0;
  const uint8_t *scales = nullptr;  // E8M0
  size_t scale_row_bytes = 0;

  bool is_packed() const { return format < DS_FORMAT_MAPPED_BF16; }
};

// Rows of one input, in whichever forms the matrices that read it need; each row padded to `stride` elements.
struct Activations {
  int rows = 0, inputs = 0;
  size_t stride = 0;           // elements per row in every form: inputs rounded up to kInputPadding
  const float *f32 = nullptr;  // may have another distance between rows:
  size_t f32_stride = 0;
  uint16_t *bf16 = nullptr;
  uint16_t *bf16_fp4 = nullptr;  // within each 8 inputs in the order 0 2, 4 6, 1 3, 5 7
  int8_t *int8 = nullptr;
  float *int8_scales = nullptr;     // [row][stride / kActivationGroup]
  int32_t *int8_sums = nullptr;     // [row][stride / kFp4Group]: sum of the group's int8 values
  int8_t *int8_mapped = nullptr;    // same scales and sums; within each 128 inputs first the even, then the odd ones
  const int32_t *row_of = nullptr;  // if set, row r of a product reads activation row row_of[r]
};

// Forms of activations that a format reads.
ActivationForm activation_form(ds_format format);

// Sizes of a packed matrix. Sets num_blocks and block_bytes.
void lay_out(Matrix &matrix);

// Where a checkpoint's matrix lies and how; checked by the caller.
struct Source {
  ds_dtype dtype = DS_F32;
  int rows = 0, columns = 0;  // outputs, inputs
  const uint8_t *data = nullptr;
  const uint8_t *scales = nullptr;  // E8M0 bytes or floats
  ds_dtype scale_dtype = DS_F8_E8M0;
};

// Exact values of rows [first, first + count) as floats, [count][columns].
void dequantise(const Source &source, int first, int count, float *out);

// Pack all rows of the source as the matrix's columns from `first_column` on. FP4 to FP4 and FP8 to FP8 keep every bit;
// everything else goes through exact floats and is rounded to nearest. FP8 needs first_column divisible by 64.
// data: the matrix's memory, zeroed before the first call, `matrix.num_blocks * matrix.block_bytes` long.
void pack(const Source &source, const Matrix &matrix, int first_column, uint8_t *data);

// True when the source holds a value that is not finite, or a scale that is not a number.
bool has_bad_values(const Source &source);

}  // namespace deepserve
