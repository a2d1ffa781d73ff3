// From checkpoints' matrices to packed ones: exact values, rounding, layouts.
//
// Compiled once, without a special instruction set, so that every machine packs the same bits. The inner loops are
// written so that the compiler turns them into vectors: integers instead of branches, no library calls.
#include <algorithm>
#include <cstring>
#include <vector>

#include "matrix.h"

namespace deepserve {
namespace {

constexpr int kChunk = 128;  // inputs and rows handled at once: a whole number of every format's groups
static_assert(kChunk % kInt8Group == 0 && kChunk % kFp4Group == 0 && kChunk == kFp8Group, "chunks cut no group");

constexpr float kSmallestAmax = 1e-36f;  // as in activations: below, 127 / amax would overflow
constexpr uint8_t kOne = 127;            // E8M0
constexpr size_t kStepBytes = kBlockColumns * 4;

int divide_up(int a, int b) { return (a + b - 1) / b; }

template <typename To, typename From>
To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From), "same size");
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

template <typename T>
T read(const uint8_t *p) {
  T value;
  std::memcpy(&value, p, sizeof value);
  return value;
}

template <typename T>
void write(uint8_t *p, T value) {
  std::memcpy(p, &value, sizeof value);
}

// 2^(exponent - 127); 255 comes out infinite.
float power_of_two(int exponent) {
  return bits_as<float>(exponent ? static_cast<uint32_t>(exponent) << 23 : uint32_t{0x00400000});
}

float float_from_e4m3(uint8_t code) {
  // As if the exponent had float's bias, then corrected by a multiplication: right for subnormals, too.
  const float value = bits_as<float>(static_cast<uint32_t>(code & 127) << 20) * 0x1p120f;
  const uint32_t no_number = (code & 127) == 127 ? 0x7fc00000u : 0u;
  return bits_as<float>(bits_as<uint32_t>(value) | no_number | static_cast<uint32_t>(code & 128) << 24);
}

// The two values of each byte.
struct E2m1Pairs {
  float values[256][2];
  constexpr E2m1Pairs() : values() {
    constexpr float kValues[16] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6, -0.0f, -0.5f, -1, -1.5f, -2, -3, -4, -6};
    for (int byte = 0; byte < 256; byte++) {
      values[byte][0] = kValues[byte & 15];
      values[byte][1] = kValues[byte >> 4];
    }
  }
};
constexpr E2m1Pairs kE2m1;

size_t row_bytes(const Source &source) {
  const size_t columns = static_cast<size_t>(source.columns);
  switch (source.dtype) {
    case DS_F64:
      return columns * 8;
    case DS_F32:
      return columns * 4;
    case DS_F16:
    case DS_BF16:
      return columns * 2;
    case DS_FP4:
      return (columns + 1) / 2;
    default:
      return columns;
  }
}

float float_from_f16(uint16_t half) {
  // As if the exponent had float's bias, then corrected by a multiplication: right for subnormals, too.
  const uint32_t magnitude = static_cast<uint32_t>(half & 0x7fff) << 13;
  const float value = bits_as<float>(magnitude) * 0x1p112f;
  const uint32_t special = (half & 0x7c00) == 0x7c00 ? 0x7f800000u : 0u;  // not finite stays not finite
  return bits_as<float>(bits_as<uint32_t>(value) | special | static_cast<uint32_t>(half & 0x8000) << 16);
}

float fp8_scale(const Source &source, int row, int group) {
  const size_t at = static_cast<size_t>(row / kFp8Group) * divide_up(source.columns, kFp8Group) + group;
  return source.scale_dtype == DS_F32 ? read<float>(source.scales + 4 * at) : power_of_two(source.scales[at]);
}

const uint8_t *fp4_scales(const Source &source, int row) {
  return source.scales + static_cast<size_t>(row) * divide_up(source.columns, kFp4Group);
}

// `count` values of one row from column `first` on, a multiple of kChunk.
void dequantise_part(const Source &source, int row, int first, int count, float *out) {
  const uint8_t *data = source.data + row * row_bytes(source);
  switch (source.dtype) {
    case DS_F64:
      for (int i = 0; i < count; i++) out[i] = static_cast<float>(read<double>(data + 8 * (first + size_t(i))));
      break;
    case DS_F32:
      std::memcpy(out, data + 4 * static_cast<size_t>(first), 4 * static_cast<size_t>(count));
      break;
    case DS_F16:
      for (int i = 0; i < count; i++) out[i] = float_from_f16(read<uint16_t>(data + 2 * (first + size_t(i))));
      break;
    case DS_BF16:
      for (int i = 0; i < count; i++)
        out[i] = bits_as<float>(static_cast<uint32_t>(read<uint16_t>(data + 2 * (first + size_t(i)))) << 16);
      break;
    case DS_F8_E4M3:
      for (int i = 0; i < count; i += kFp8Group) {
        const float scale = fp8_scale(source, row, (first + i) / kFp8Group);
        const int end = std::min(count, i + kFp8Group);
        for (int j = i; j < end; j++) out[j] = float_from_e4m3(data[first + j]) * scale;
      }
      break;
    case DS_FP4:
      for (int i = 0; i < count; i += kFp4Group) {
        const float scale = power_of_two(fp4_scales(source, row)[(first + i) / kFp4Group]);
        const int end = std::min(count, i + kFp4Group);
        const uint8_t *bytes = data + (first + i) / 2;
        int j = i;
        for (; j + 2 <= end; j += 2, bytes++) {
          out[j] = kE2m1.values[*bytes][0] * scale;
          out[j + 1] = kE2m1.values[*bytes][1] * scale;
        }
        if (j < end) out[j] = kE2m1.values[*bytes][0] * scale;
      }
      break;
    default:
      break;  // no matrix has another type; the caller has checked
  }
}

// Largest magnitude. As integers the comparison vectorises: finite floats of one sign are ordered like their bits.
float amax(const float *x, int count) {
  int32_t largest = 0;
  for (int i = 0; i < count; i++) largest = std::max(largest, bits_as<int32_t>(x[i]) & 0x7fffffff);
  return bits_as<float>(largest);
}

// E8M0 of the smallest power of two that brings `amax` down to (1 + fraction / 2^23) * 2^exponent or below.
uint8_t scale_for(float amax, uint32_t fraction, int exponent) {
  if (amax == 0) return kOne;
  // Multiplied first, so that subnormals have an exponent as well.
  const uint32_t bits = bits_as<uint32_t>(amax < 0x1p-100f ? amax * 0x1p64f : amax);
  const int own = static_cast<int>(bits >> 23) - 127 - (amax < 0x1p-100f ? 64 : 0);
  return static_cast<uint8_t>(std::max(0, own - exponent + ((bits & 0x7fffff) > fraction) + 127));
}

uint8_t scale_for_e2m1(float amax) { return scale_for(amax, 0x400000, 2); }  // 6 = 1.5 * 4
uint8_t scale_for_e4m3(float amax) { return scale_for(amax, 0x600000, 8); }  // 448 = 1.75 * 256

float inverse_power(uint8_t exponent) { return power_of_two(254 - exponent); }

// To nearest, ties to even. |x| <= 6.
uint32_t round_to_e2m1(float x) {
  const float y = bits_as<float>(bits_as<uint32_t>(x) & 0x7fffffff);
  const int code = (y > 0.25f) + (y >= 0.75f) + (y > 1.25f) + (y >= 1.75f) + (y > 2.5f) + (y >= 3.5f) + (y > 5.0f);
  return static_cast<uint32_t>(code) | (bits_as<uint32_t>(x) >> 28 & 8);
}

// To nearest, ties to even. |x| <= 448.
uint8_t round_to_e4m3(float x) {
  const uint32_t bits = bits_as<uint32_t>(x), magnitude = bits & 0x7fffffff;
  const uint32_t normal = ((magnitude + 0x7ffff + (magnitude >> 20 & 1)) >> 20) - (120 << 3);
  // Below the smallest normal number codes are multiples of 2^-9: adding 1.5 * 2^14 leaves just those bits.
  const uint32_t subnormal = bits_as<uint32_t>(bits_as<float>(magnitude) + 0x1.8p14f) & 0xff;
  const uint32_t code = magnitude < 0x3c800000u ? subnormal : normal;
  return static_cast<uint8_t>(code | (bits >> 24 & 0x80));
}

uint16_t round_to_bf16(float x) {
  const uint32_t bits = bits_as<uint32_t>(x);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// Writers of one column. x: its values from input `first` on, a multiple of kChunk; zeros behind the last up to kChunk.

void put_f32(const float *x, int first, int count, uint8_t *block, int column) {
  uint8_t *out = block + first * kStepBytes + 4 * column;
  for (int k = 0; k < count; k++) write(out + k * kStepBytes, x[k]);
}

void put_bf16(const float *x, int first, int count, uint8_t *block, int column) {
  uint32_t rounded[kChunk];
  for (int k = 0; k < kChunk; k++) rounded[k] = round_to_bf16(x[k]);
  uint8_t *out = block + first / 2 * kStepBytes + 4 * column;
  for (int k = 0; k < count; k += 2) write(out + k / 2 * kStepBytes, rounded[k] | rounded[k + 1] << 16);
}

void put_int8(const float *x, int first, int count, uint8_t *block, int column) {
  constexpr size_t kGroupBytes = kInt8Group / 4 * kStepBytes + kBlockColumns * sizeof(float);
  constexpr float kMagic = 0x1.8p23f;  // added and seen as an integer: x to nearest, ties to even
  for (int k = 0; k < count; k += kInt8Group) {
    const float top = amax(x + k, kInt8Group);
    const float factor = top > kSmallestAmax ? 127.0f / top : 0.0f, scale = top > kSmallestAmax ? top / 127.0f : 0.0f;
    uint8_t bytes[kInt8Group];
    for (int i = 0; i < kInt8Group; i++)
      bytes[i] = static_cast<uint8_t>(bits_as<uint32_t>(x[k + i] * factor + kMagic) + 128);
    uint8_t *out = block + (first + k) / kInt8Group * kGroupBytes + 4 * column;
    for (int i = 0; i < kInt8Group; i += 4, out += kStepBytes) write(out, read<uint32_t>(bytes + i));
    write(out, scale);
  }
}

constexpr size_t kFp4GroupBytes = kFp4Group / 8 * kStepBytes + kBlockColumns;

void put_fp4(const float *x, int first, int count, uint8_t *block, int column) {
  for (int k = 0; k < count; k += kFp4Group) {
    const uint8_t scale = scale_for_e2m1(amax(x + k, kFp4Group));
    const float factor = inverse_power(scale);
    uint32_t codes[kFp4Group];
    for (int i = 0; i < kFp4Group; i++) codes[i] = round_to_e2m1(x[k + i] * factor);
    uint8_t *group = block + (first + k) / kFp4Group * kFp4GroupBytes;
    for (int i = 0; i < kFp4Group; i += 8) {
      uint32_t word = 0;
      for (int b = 0; b < 4; b++) word |= (codes[i + b] | codes[i + b + 4] << 4) << 8 * b;
      write(group + i / 8 * kStepBytes + 4 * column, word);
    }
    group[kFp4Group / 8 * kStepBytes + column] = scale;
  }
}

// One column's 32 codes of one group, moved to their places.
void put_fp4_codes(const uint8_t *codes, uint8_t scale, uint8_t *group, int column) {
  for (int i = 0; i < kFp4Group / 8; i++) {
    // Nibbles 0..3 spread to the low halves of four bytes, 4..7 to the high ones.
    const uint32_t word = read<uint32_t>(codes + 4 * i);
    uint32_t low = word & 0xffff, high = word >> 16;
    low = (low | low << 8) & 0x00ff00ff;
    low = (low | low << 4) & 0x0f0f0f0f;
    high = (high | high << 8) & 0x00ff00ff;
    high = (high | high << 4) & 0x0f0f0f0f;
    write(group + i * kStepBytes + 4 * column, low | high << 4);
  }
  group[kFp4Group / 8 * kStepBytes + column] = scale;
}

void pack_fp4_codes(const Source &source, const Matrix &matrix, int first_column, uint8_t *data) {
  constexpr int kGroups = kChunk / kFp4Group;  // of one row at a time, a cache line
  constexpr size_t kGroupCodes = kFp4Group / 2;
  const size_t bytes = row_bytes(source);
  const int num_groups = divide_up(source.columns, kFp4Group);
  for (int first = 0; first < source.rows; first += kBlockColumns) {
    const int end = std::min(source.rows, first + kBlockColumns);
    for (int first_group = 0; first_group < num_groups; first_group += kGroups) {
      for (int row = first; row < end; row++) {
        const int column = first_column + row;
        uint8_t *block = data + column / kBlockColumns * matrix.block_bytes;
        const uint8_t *scales = fp4_scales(source, row);
        for (int g = first_group; g < std::min(num_groups, first_group + kGroups); g++) {
          uint8_t *group = block + static_cast<size_t>(g) * kFp4GroupBytes;
          const size_t at = static_cast<size_t>(g) * kGroupCodes;
          if (at + kGroupCodes <= bytes) {
            put_fp4_codes(source.data + row * bytes + at, scales[g], group, column % kBlockColumns);
            continue;
          }
          uint8_t codes[kGroupCodes] = {};
          std::memcpy(codes, source.data + row * bytes + at, bytes - at);
          if (source.columns % 2) codes[bytes - at - 1] &= 15;
          put_fp4_codes(codes, scales[g], group, column % kBlockColumns);
        }
      }
    }
  }
}

constexpr size_t kFp8GroupBytes = kFp8Group / 4 * kStepBytes + 64;

// Four neighbouring columns' 128 codes of one group; the first column's number in its block is divisible by 4.
void put_fp8_codes(const uint8_t *const (&codes)[4], uint8_t *group, int column) {
  uint8_t *out = group + 4 * column;
  for (int k = 0; k < kFp8Group; k += 4, out += kStepBytes) {
    uint64_t first = 0, second = 0;
    for (int c = 0; c < 4; c++) {
      const uint32_t four = read<uint32_t>(codes[c] + k);
      first |= static_cast<uint64_t>(four & 0xffff) << 16 * c;
      second |= static_cast<uint64_t>(four >> 16) << 16 * c;
    }
    write(out, first);
    write(out + 8, second);
  }
}

void pack_fp8_codes(const Source &source, const Matrix &matrix, int first_column, uint8_t *data) {
  const size_t bytes = row_bytes(source);
  const int num_groups = divide_up(source.columns, kFp8Group);
  for (int first = 0; first < source.rows; first += kBlockColumns) {
    const int end = std::min(source.rows, first + kBlockColumns);
    for (int g = 0; g < num_groups; g++) {
      uint8_t *group =
          data + (first_column + first) / kBlockColumns * matrix.block_bytes + static_cast<size_t>(g) * kFp8GroupBytes;
      const size_t at = static_cast<size_t>(g) * kFp8Group, left = std::min<size_t>(bytes - at, kFp8Group);
      for (int row = first; row < end; row += 4) {
        uint8_t copies[4][kFp8Group];
        const uint8_t *codes[4];
        for (int c = 0; c < 4; c++) {
          const uint8_t *own = source.data + (row + c) * bytes + at;
          if (row + c < end && left == kFp8Group) {
            codes[c] = own;
            continue;
          }
          std::memset(copies[c], 0, kFp8Group);
          if (row + c < end) std::memcpy(copies[c], own, left);
          codes[c] = copies[c];
        }
        put_fp8_codes(codes, group, row - first);
      }
      write(group + kFp8GroupBytes - 64, fp8_scale(source, first, g));
    }
  }
}

// Round up to 128 x 128 values with one scale. x: [rows][kChunk].
void put_fp8_square(const float *x, int rows, int group, uint8_t *block, size_t block_bytes) {
  const uint8_t scale = scale_for_e4m3(amax(x, rows * kChunk));
  const float factor = inverse_power(scale);
  for (int row = 0; row < rows; row += 4) {
    uint8_t rounded[4][kFp8Group] = {};
    for (int c = 0; c < std::min(4, rows - row); c++)
      for (int k = 0; k < kFp8Group; k++) rounded[c][k] = round_to_e4m3(x[(row + c) * kChunk + k] * factor);
    uint8_t *into = block + row / kBlockColumns * block_bytes + static_cast<size_t>(group) * kFp8GroupBytes;
    put_fp8_codes({rounded[0], rounded[1], rounded[2], rounded[3]}, into, row % kBlockColumns);
    write(into + kFp8GroupBytes - 64, power_of_two(scale));
  }
}

bool is_finite(float x) { return (bits_as<uint32_t>(x) & 0x7f800000) != 0x7f800000; }

template <typename IsBad>
bool any(size_t count, IsBad is_bad) {
  constexpr size_t kRun = 4096;  // without a way out in between, so that it vectorises
  for (size_t first = 0; first < count; first += kRun) {
    const size_t end = std::min(count, first + kRun);
    uint32_t bad = 0;
    for (size_t i = first; i < end; i++) bad |= is_bad(i);
    if (bad) return true;
  }
  return false;
}

}  // namespace

ActivationForm activation_form(ds_format format) {
  switch (format) {
    case DS_FORMAT_BF16:
    case DS_FORMAT_FP8:
    case DS_FORMAT_MAPPED_BF16:
    case DS_FORMAT_MAPPED_FP8:
      return ActivationForm::kBf16;
    case DS_FORMAT_INT8:
    case DS_FORMAT_FP4:
      return ActivationForm::kInt8;
    case DS_FORMAT_FP4_EXACT:
      return ActivationForm::kBf16Fp4Order;
    case DS_FORMAT_MAPPED_FP4:
      return ActivationForm::kInt8Mapped;
    default:
      return ActivationForm::kF32;
  }
}

void lay_out(Matrix &matrix) {
  matrix.num_blocks = divide_up(matrix.outputs, kBlockColumns);
  const auto groups = [&](int group) { return static_cast<size_t>(divide_up(matrix.inputs, group)); };
  switch (matrix.format) {
    case DS_FORMAT_F32:
      matrix.block_bytes = groups(1) * kStepBytes;
      break;
    case DS_FORMAT_BF16:
      matrix.block_bytes = groups(2) * kStepBytes;
      break;
    case DS_FORMAT_INT8:
      matrix.block_bytes = groups(kInt8Group) * (kInt8Group / 4 * kStepBytes + kBlockColumns * sizeof(float));
      break;
    case DS_FORMAT_FP4:
    case DS_FORMAT_FP4_EXACT:
      matrix.block_bytes = groups(kFp4Group) * kFp4GroupBytes;
      break;
    case DS_FORMAT_FP8:
      matrix.block_bytes = groups(kFp8Group) * kFp8GroupBytes;
      break;
    default:
      matrix.block_bytes = 0;  // mapped: the checkpoint's own layout
      break;
  }
}

void dequantise(const Source &source, int first, int count, float *out) {
  for (int row = 0; row < count; row++)
    dequantise_part(source, first + row, 0, source.columns, out + static_cast<size_t>(row) * source.columns);
}

void pack(const Source &source, const Matrix &matrix, int first_column, uint8_t *data) {
  const bool is_fp4 = matrix.format == DS_FORMAT_FP4 || matrix.format == DS_FORMAT_FP4_EXACT;
  if (is_fp4 && first_column + source.rows == matrix.outputs) {
    // Columns that pad the last block: scale 1, because arithmetic with the subnormal 2^-127 is slow on some machines.
    uint8_t *block = data + (matrix.num_blocks - 1) * matrix.block_bytes;
    const int first_padding = matrix.outputs - (matrix.num_blocks - 1) * kBlockColumns;
    for (uint8_t *group = block; group < block + matrix.block_bytes; group += kFp4GroupBytes)
      std::fill(group + kFp4GroupBytes - kBlockColumns + first_padding, group + kFp4GroupBytes, kOne);
  }
  if (is_fp4 && source.dtype == DS_FP4) return pack_fp4_codes(source, matrix, first_column, data);
  if (matrix.format == DS_FORMAT_FP8 && source.dtype == DS_F8_E4M3)
    return pack_fp8_codes(source, matrix, first_column, data);

  std::vector<float> values(static_cast<size_t>(kChunk) * kChunk);
  for (int first_row = 0; first_row < source.rows; first_row += kChunk) {
    const int rows = std::min(source.rows - first_row, kChunk);
    for (int first = 0; first < source.columns; first += kChunk) {
      const int count = std::min(source.columns - first, kChunk);
      for (int row = 0; row < rows; row++) {
        float *x = values.data() + row * kChunk;
        dequantise_part(source, first_row + row, first, count, x);
        std::fill(x + count, x + kChunk, 0.0f);
      }
      if (matrix.format == DS_FORMAT_FP8) {
        put_fp8_square(values.data(), rows, first / kFp8Group,
                       data + (first_column + first_row) / kBlockColumns * matrix.block_bytes, matrix.block_bytes);
        continue;
      }
      const auto put = matrix.format == DS_FORMAT_F32    ? put_f32
                       : matrix.format == DS_FORMAT_BF16 ? put_bf16
                       : matrix.format == DS_FORMAT_INT8 ? put_int8
                                                         : put_fp4;
      for (int row = 0; row < rows; row++) {
        const int column = first_column + first_row + row;
        put(values.data() + row * kChunk, first, count, data + column / kBlockColumns * matrix.block_bytes,
            column % kBlockColumns);
      }
    }
  }
}

bool has_bad_values(const Source &source) {
  const uint8_t *data = source.data;
  const size_t count = static_cast<size_t>(source.rows) * source.columns;
  switch (source.dtype) {
    case DS_F64:
      return any(count, [=](size_t i) { return !is_finite(static_cast<float>(read<double>(data + 8 * i))); });
    case DS_F32:
      return any(count, [=](size_t i) { return !is_finite(read<float>(data + 4 * i)); });
    case DS_F16:
      return any(count, [=](size_t i) { return (read<uint16_t>(data + 2 * i) & 0x7c00) == 0x7c00; });
    case DS_BF16:
      return any(count, [=](size_t i) { return (read<uint16_t>(data + 2 * i) & 0x7f80) == 0x7f80; });
    case DS_F8_E4M3: {
      const size_t num_scales =
          static_cast<size_t>(divide_up(source.rows, kFp8Group)) * divide_up(source.columns, kFp8Group);
      const uint8_t *scales = source.scales;
      const bool has_bad_scales =
          source.scale_dtype == DS_F32
              ? any(num_scales, [=](size_t i) { return !is_finite(read<float>(scales + 4 * i)); })
              : any(num_scales, [=](size_t i) { return scales[i] == 255; });
      return has_bad_scales || any(count, [=](size_t i) { return (data[i] & 127) == 127; });
    }
    case DS_FP4: {
      const uint8_t *scales = source.scales;
      return any(static_cast<size_t>(source.rows) * divide_up(source.columns, kFp4Group),
                 [=](size_t i) { return scales[i] == 255; });
    }
    default:
      return false;
  }
}

}  // namespace deepserve
