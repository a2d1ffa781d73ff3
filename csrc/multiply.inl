// Activations in the forms that matrices read, and products of activations with matrices, for every format. Included
// by each instruction set's file inside its namespace, after its simd header; every name has internal linkage.
//
// The order of additions is part of the result and the same for every number of rows and every tile:
//   F32, BF16        one accumulator per output, inputs ascending (of a pair the odd one first)
//   FP8, FP4_EXACT   one accumulator per group of inputs, then total = fma(group, scale, total), groups ascending
//   INT8, FP4        exact integers per group, then the same with scale = weights' scale * activations' scale
//   MAPPED_*         lanes run along the inputs; described at each

template <typename T>
static inline T smaller(T a, T b) {
  return a < b ? a : b;
}

// Activations

// The first n of a row's next 16 numbers, zeros behind them.
static inline F load_row(const float *p, int n) { return n >= 16 ? load(p) : n > 0 ? load_some(p, n) : zero(); }

static void prepare_bf16(const float *x, int inputs, size_t stride, uint16_t *out) {
  for (int i = 0; i < static_cast<int>(stride); i += 16) store_bf16(out + i, load_row(x + i, inputs - i));
}

static void prepare_bf16_fp4_order(const float *x, int inputs, size_t stride, uint16_t *out) {
  for (int i = 0; i < static_cast<int>(stride); i += 16) {
    uint16_t some[16];
    store_bf16(some, load_row(x + i, inputs - i));
    for (int j = 0; j < 8; j++) {
      const int from = j < 4 ? 2 * j : 2 * (j - 4) + 1;
      out[i + j] = some[from];
      out[i + 8 + j] = some[8 + from];
    }
  }
}

// Below this a group counts as zero: 127 / amax would overflow.
constexpr float kSmallestAmax = 1e-36f;

static void prepare_int8(const float *x, int inputs, size_t stride, int8_t *out, float *scales, int32_t *sums) {
  static_assert(kActivationGroup == 64 && kFp4Group == 32, "four vectors share a scale, two a sum");
  for (int i = 0; i < static_cast<int>(stride); i += kActivationGroup) {
    F some[4];
    F top = zero(), poison = zero();
    for (int j = 0; j < 4; j++) {
      some[j] = load_row(x + i + 16 * j, inputs - i - 16 * j);
      top = max(top, max(some[j], sub(zero(), some[j])));
      poison = fma(some[j], zero(), poison);  // 0, or not a number if any input is not finite
    }
    const float amax = highest(top);
    const bool is_finite = sum(poison) == 0.0f, is_zero = !is_finite || amax <= kSmallestAmax;
    const F factor = set(is_zero ? 0.0f : 127.0f / amax);
    scales[i / kActivationGroup] = !is_finite ? __builtin_nanf("") : is_zero ? 0.0f : amax / 127.0f;
    if (!is_finite)
      for (F &x16 : some) x16 = zero();
    for (int j = 0; j < 4; j += 2) {
      const I first = round_to_int(mul(some[j], factor)), second = round_to_int(mul(some[j + 1], factor));
      store_bytes(out + i + 16 * j, first);
      store_bytes(out + i + 16 * j + 16, second);
      // At most 32 * 127: exact as a float.
      sums[i / kFp4Group + j / 2] = static_cast<int32_t>(sum(to_float(add_int(first, second))));
    }
  }
}

static void evens_before_odds(const int8_t *x, size_t stride, int8_t *out) {
  for (size_t i = 0; i < stride; i += kInputPadding)
    for (int j = 0; j < kInputPadding / 2; j++) {
      out[i + j] = x[i + 2 * j];
      out[i + kInputPadding / 2 + j] = x[i + 2 * j + 1];
    }
}

static void prepare_int8_mapped(const float *x, int inputs, size_t stride, int8_t *out, float *scales, int32_t *sums) {
  for (size_t i = 0; i < stride; i += kInputPadding) {
    int8_t some[kInputPadding];
    prepare_int8(x + i, smaller(inputs - static_cast<int>(i), kInputPadding), kInputPadding, some,
                 scales + i / kActivationGroup, sums + i / kFp4Group);
    evens_before_odds(some, kInputPadding, out + i);
  }
}

static void prepare(const Activations &x, ActivationForm form, int first_row, int end_row) {
  for (int row = first_row; row < end_row; row++) {
    const float *from = x.f32 + row * x.f32_stride;
    const size_t at = row * x.stride;
    float *scales = x.int8_scales ? x.int8_scales + at / kActivationGroup : nullptr;
    int32_t *sums = x.int8_sums ? x.int8_sums + at / kFp4Group : nullptr;
    switch (form) {
      case ActivationForm::kF32:
        break;
      case ActivationForm::kBf16:
        prepare_bf16(from, x.inputs, x.stride, x.bf16 + at);
        break;
      case ActivationForm::kBf16Fp4Order:
        prepare_bf16_fp4_order(from, x.inputs, x.stride, x.bf16_fp4 + at);
        break;
      case ActivationForm::kInt8:
        prepare_int8(from, x.inputs, x.stride, x.int8 + at, scales, sums);
        break;
      case ActivationForm::kInt8Mapped:
        prepare_int8_mapped(from, x.inputs, x.stride, x.int8_mapped + at, scales, sums);
        break;
    }
  }
}

// Packed products

constexpr int kVectorBytes = 64;  // what 16 columns take in each step
constexpr int kBlockVectors = kBlockColumns / 16;
constexpr int kStepBytes = kBlockVectors * kVectorBytes;  // a whole block's columns

// Some rows times some vectors of columns of one block.
struct Tile {
  const uint8_t *block;
  int first_vector;
  int inputs;
  const Activations *x;
  const int *rows;  // of the activations
  float *out;       // of the first row, at the first vector
  size_t stride;

  const uint8_t *weights() const { return block + first_vector * kVectorBytes; }
};

template <int kRows, int kVectors>
static inline void clear(F (&acc)[kRows][kVectors]) {
  for (int r = 0; r < kRows; r++)
    for (int v = 0; v < kVectors; v++) acc[r][v] = zero();
}

template <int kRows, int kVectors>
static inline void store_tile(const Tile &tile, const F (&acc)[kRows][kVectors]) {
  for (int r = 0; r < kRows; r++)
    for (int v = 0; v < kVectors; v++) store(tile.out + r * tile.stride + 16 * v, acc[r][v]);
}

static inline I weight_bytes(const void *p) {
  const I bytes = load_int(p);
  if constexpr (kUnsignedBytes) {
    return bytes;
  } else {
    return xor_int(bytes, set_int(static_cast<int32_t>(0x80808080u)));
  }
}

struct ProductF32 {
  template <int kRows, int kVectors>
  static void run(const Tile &tile) {
    const float *x[kRows];
    for (int r = 0; r < kRows; r++) x[r] = tile.x->f32 + tile.rows[r] * tile.x->f32_stride;
    F acc[kRows][kVectors];
    clear(acc);
    const float *weights = reinterpret_cast<const float *>(tile.weights());
    for (int k = 0; k < tile.inputs; k++, weights += kBlockColumns) {
      F weight[kVectors];
      for (int v = 0; v < kVectors; v++) weight[v] = load(weights + 16 * v);
      for (int r = 0; r < kRows; r++) {
        const F a = set(x[r][k]);
        for (int v = 0; v < kVectors; v++) acc[r][v] = fma(weight[v], a, acc[r][v]);
      }
    }
    store_tile(tile, acc);
  }
};

struct ProductBf16 {
  template <int kRows, int kVectors>
  static void run(const Tile &tile) {
    const uint16_t *x[kRows];
    for (int r = 0; r < kRows; r++) x[r] = tile.x->bf16 + tile.rows[r] * tile.x->stride;
    F acc[kRows][kVectors];
    clear(acc);
    const uint16_t *weights = reinterpret_cast<const uint16_t *>(tile.weights());
    for (int k = 0; k < tile.inputs; k += 2, weights += 2 * kBlockColumns) {
      P weight[kVectors];
      for (int v = 0; v < kVectors; v++) weight[v] = load_pairs(weights + 32 * v);
      for (int r = 0; r < kRows; r++) {
        const P a = set_pair(x[r] + k);
        for (int v = 0; v < kVectors; v++) acc[r][v] = dot2(acc[r][v], weight[v], a);
      }
    }
    store_tile(tile, acc);
  }
};

struct ProductInt8 {
  template <int kRows, int kVectors>
  static void run(const Tile &tile) {
    const int8_t *x[kRows];
    const float *x_scales[kRows];
    const int32_t *x_sums[kRows];
    for (int r = 0; r < kRows; r++) {
      const size_t at = tile.rows[r] * tile.x->stride;
      x[r] = tile.x->int8 + at;
      x_scales[r] = tile.x->int8_scales + at / kActivationGroup;
      x_sums[r] = tile.x->int8_sums + at / kFp4Group;
    }
    F acc[kRows][kVectors];
    clear(acc);
    const uint8_t *weights = tile.weights();
    const int num_groups = (tile.inputs + kInt8Group - 1) / kInt8Group;
    for (int group = 0; group < num_groups; group++) {
      I part[kRows][kVectors];
      for (int r = 0; r < kRows; r++) {
        const int32_t correction = -128 * (x_sums[r][2 * group] + x_sums[r][2 * group + 1]);
        for (int v = 0; v < kVectors; v++) part[r][v] = set_int(kUnsignedBytes ? correction : 0);
      }
      for (int k = group * kInt8Group; k < (group + 1) * kInt8Group; k += 4, weights += kStepBytes) {
        I weight[kVectors];
        for (int v = 0; v < kVectors; v++) weight[v] = weight_bytes(weights + kVectorBytes * v);
        for (int r = 0; r < kRows; r++) {
          const I a = set_bytes(x[r] + k);
          for (int v = 0; v < kVectors; v++) part[r][v] = dot4(part[r][v], weight[v], a);
        }
      }
      for (int v = 0; v < kVectors; v++) {
        const F scale = load(reinterpret_cast<const float *>(weights) + 16 * v);
        for (int r = 0; r < kRows; r++)
          acc[r][v] = fma(to_float(part[r][v]), mul(scale, set(x_scales[r][group])), acc[r][v]);
      }
      weights += kBlockColumns * sizeof(float);
    }
    store_tile(tile, acc);
  }
};

struct ProductFp4 {
  template <int kRows, int kVectors>
  static void run(const Tile &tile) {
    const int8_t *x[kRows];
    const float *x_scales[kRows];
    const int32_t *x_sums[kRows];
    for (int r = 0; r < kRows; r++) {
      const size_t at = tile.rows[r] * tile.x->stride;
      x[r] = tile.x->int8 + at;
      x_scales[r] = tile.x->int8_scales + at / kActivationGroup;
      x_sums[r] = tile.x->int8_sums + at / kFp4Group;
    }
    F acc[kRows][kVectors];
    clear(acc);
    const uint8_t *group_start = tile.block;
    const int num_groups = (tile.inputs + kFp4Group - 1) / kFp4Group;
    for (int group = 0; group < num_groups; group++) {
      const uint8_t *weights = group_start + tile.first_vector * kVectorBytes;
      I total[kRows][kVectors];
      for (int r = 0; r < kRows; r++)
        for (int v = 0; v < kVectors; v++) total[r][v] = set_int(-kFp4Offset * x_sums[r][group]);
      for (int half = 0; half < 2; half++) {
        I part[kRows][kVectors];
        for (int r = 0; r < kRows; r++)
          for (int v = 0; v < kVectors; v++) part[r][v] = small_start(total[r][v]);
        for (int step = 0; step < 2; step++, weights += kStepBytes) {
          const int k = group * kFp4Group + 16 * half + 8 * step;
          I weight[kVectors];
          for (int v = 0; v < kVectors; v++) weight[v] = decode_fp4_low(load_int(weights + kVectorBytes * v));
          for (int r = 0; r < kRows; r++) {
            const I a = set_bytes(x[r] + k);
            for (int v = 0; v < kVectors; v++) part[r][v] = small_dot4(part[r][v], weight[v], a);
          }
          for (int v = 0; v < kVectors; v++) weight[v] = decode_fp4_high(load_int(weights + kVectorBytes * v));
          for (int r = 0; r < kRows; r++) {
            const I a = set_bytes(x[r] + k + 4);
            for (int v = 0; v < kVectors; v++) part[r][v] = small_dot4(part[r][v], weight[v], a);
          }
        }
        for (int r = 0; r < kRows; r++)
          for (int v = 0; v < kVectors; v++) total[r][v] = small_end(total[r][v], part[r][v]);
      }
      const uint8_t *scales = group_start + 4 * kStepBytes;
      for (int v = 0; v < kVectors; v++) {
        const F scale = load_powers(scales + 16 * (tile.first_vector + v));
        // Half, because decoded weights are twice theirs.
        for (int r = 0; r < kRows; r++) {
          const F half_scale = set(0.5f * x_scales[r][group / (kActivationGroup / kFp4Group)]);
          acc[r][v] = fma(to_float(total[r][v]), mul(scale, half_scale), acc[r][v]);
        }
      }
      group_start = scales + kBlockColumns;
    }
    store_tile(tile, acc);
  }
};

struct ProductFp4Exact {
  template <int kRows, int kVectors>
  static void run(const Tile &tile) {
    const uint16_t *x[kRows];
    for (int r = 0; r < kRows; r++) x[r] = tile.x->bf16_fp4 + tile.rows[r] * tile.x->stride;
    F acc[kRows][kVectors];
    clear(acc);
    const uint8_t *group_start = tile.block;
    const int num_groups = (tile.inputs + kFp4Group - 1) / kFp4Group;
    for (int group = 0; group < num_groups; group++) {
      const uint8_t *weights = group_start + tile.first_vector * kVectorBytes;
      F part[kRows][kVectors];
      clear(part);
      for (int k = group * kFp4Group; k < (group + 1) * kFp4Group; k += 8, weights += kStepBytes) {
        add_quarter<0>(weights, x, k, part);
        add_quarter<1>(weights, x, k, part);
        add_quarter<2>(weights, x, k, part);
        add_quarter<3>(weights, x, k, part);
      }
      const uint8_t *scales = group_start + 4 * kStepBytes;
      for (int v = 0; v < kVectors; v++) {
        const F scale = load_powers(scales + 16 * (tile.first_vector + v));
        for (int r = 0; r < kRows; r++) acc[r][v] = fma(part[r][v], scale, acc[r][v]);
      }
      group_start = scales + kBlockColumns;
    }
    store_tile(tile, acc);
  }

  template <int kQuarter, int kRows, int kVectors>
  static inline void add_quarter(const uint8_t *weights, const uint16_t *const (&x)[kRows], int k,
                                 F (&part)[kRows][kVectors]) {
    P weight[kVectors];
    for (int v = 0; v < kVectors; v++) weight[v] = decode_fp4_pairs<kQuarter>(load_int(weights + kVectorBytes * v));
    for (int r = 0; r < kRows; r++) {
      const P a = set_pair(x[r] + k + 2 * kQuarter);
      for (int v = 0; v < kVectors; v++) part[r][v] = dot2(part[r][v], weight[v], a);
    }
  }
};

struct ProductFp8 {
  template <int kRows, int kVectors>
  static void run(const Tile &tile) {
    const uint16_t *x[kRows];
    for (int r = 0; r < kRows; r++) x[r] = tile.x->bf16 + tile.rows[r] * tile.x->stride;
    F acc[kRows][kVectors];
    clear(acc);
    const uint8_t *weights = tile.weights();
    const int num_groups = (tile.inputs + kFp8Group - 1) / kFp8Group;
    for (int group = 0; group < num_groups; group++) {
      F part[kRows][kVectors];
      clear(part);
      for (int k = group * kFp8Group; k < (group + 1) * kFp8Group; k += 4, weights += kStepBytes) {
        for (int v = 0; v < kVectors; v++) {
          W first, second;
          decode_e4m3(load_int(weights + kVectorBytes * v), first, second);
          for (int r = 0; r < kRows; r++) {
            part[r][v] = dot2(part[r][v], first, set_pair(x[r] + k));
            part[r][v] = dot2(part[r][v], second, set_pair(x[r] + k + 2));
          }
        }
      }
      float scale;
      std::memcpy(&scale, weights - tile.first_vector * kVectorBytes, sizeof scale);
      for (int r = 0; r < kRows; r++)
        for (int v = 0; v < kVectors; v++) acc[r][v] = fma(part[r][v], set(scale), acc[r][v]);
      weights += kVectorBytes;
    }
    store_tile(tile, acc);
  }
};

template <typename Product, int kRows>
static void run_tiles(Tile tile) {
  constexpr int kVectors = tile_vectors(kRows);
  float *out = tile.out;
  for (int v = 0; v < kBlockVectors; v += kVectors) {
    tile.first_vector = v;
    tile.out = out + 16 * v;
    Product::template run<kRows, kVectors>(tile);
  }
}

template <typename Product, int kRows = kTileRows>
static inline void run_rows(int rows, const Tile &tile) {
  if (rows == kRows) {
    run_tiles<Product, kRows>(tile);
  } else if constexpr (kRows > 1) {
    run_rows<Product, kRows - 1>(rows, tile);
  }
}

// Rows for the next tile: all tiles about the same, so that none decodes weights for a lonely row.
static inline int next_rows(int rows_left, int most) {
  const int num_tiles = (rows_left + most - 1) / most;
  return (rows_left + num_tiles - 1) / num_tiles;
}

template <typename Product>
static void multiply_packed(const Matrix &w, const Activations &x, int rows, int first_block, int end_block, float *out,
                            size_t stride) {
  for (int block = first_block; block < end_block; block++) {
    for (int first = 0; first < rows;) {
      const int count = next_rows(rows - first, kTileRows);
      int which[kTileRows];
      for (int r = 0; r < count; r++) which[r] = x.row_of ? x.row_of[first + r] : first + r;
      run_rows<Product>(count, {w.data + block * w.block_bytes, 0, w.inputs, &x, which,
                                out + first * stride + static_cast<size_t>(block) * kBlockColumns, stride});
      first += count;
    }
  }
}

// Mapped products: one output at a time, lanes along the inputs, one horizontal sum at the end. Behind the end of an
// output's inputs nothing is read, another tensor or the end of the file may be there.

constexpr int kMappedRows = 4;
constexpr int kMappedStep = kInputPadding;  // inputs

struct MappedTile {
  const Matrix *w;
  const Activations *x;
  const int *rows;
  float *out;  // of the first row, at the block's first column
  size_t stride;
};

// 128 inputs' bytes: in place, or a copy padded with zeros where fewer are left.
template <int kBytes>
static inline const uint8_t *whole_step(const uint8_t *row, size_t row_bytes, size_t at, uint8_t (&copy)[kBytes]) {
  if (at + kBytes <= row_bytes) return row + at;
  std::memset(copy, 0, kBytes);
  std::memcpy(copy, row + at, row_bytes - at);
  return copy;
}

// Four accumulators, pairs of inputs (2i, 2i+1) with i mod 64 in 0..15, 16..31, 32..47, 48..63; added as a tree.
struct MappedBf16 {
  template <int kRows>
  static void run(const MappedTile &tile, int first_output, int end_output) {
    const Matrix &w = *tile.w;
    const uint16_t *x[kRows];
    for (int r = 0; r < kRows; r++) x[r] = tile.x->bf16 + tile.rows[r] * tile.x->stride;
    const size_t bytes = static_cast<size_t>(w.inputs) * 2;
    for (int o = first_output; o < end_output; o++) {
      const uint8_t *row = w.data + o * w.row_bytes;
      F acc[kRows][4];
      clear(acc);
      for (int k = 0; k < w.inputs; k += kMappedStep) {
        uint8_t copy[2 * kMappedStep];
        const uint16_t *weights =
            reinterpret_cast<const uint16_t *>(whole_step(row, bytes, 2 * static_cast<size_t>(k), copy));
        for (int c = 0; c < 4; c++) {
          const P weight = load_pairs(weights + 32 * c);
          for (int r = 0; r < kRows; r++) acc[r][c] = dot2(acc[r][c], weight, load_pairs(x[r] + k + 32 * c));
        }
      }
      for (int r = 0; r < kRows; r++)
        tile.out[r * tile.stride + o - first_output] = sum(add(add(acc[r][0], acc[r][1]), add(acc[r][2], acc[r][3])));
    }
  }
};

// Per group of 128 inputs two sums, of its first and its second 64; total = fma(group, scale, total) for each.
struct MappedFp8 {
  template <int kRows>
  static void run(const MappedTile &tile, int first_output, int end_output) {
    static_assert(kMappedStep == kFp8Group, "a step has one scale");
    const Matrix &w = *tile.w;
    const uint16_t *x[kRows];
    for (int r = 0; r < kRows; r++) x[r] = tile.x->bf16 + tile.rows[r] * tile.x->stride;
    const size_t bytes = static_cast<size_t>(w.inputs);
    for (int o = first_output; o < end_output; o++) {
      const uint8_t *row = w.data + o * w.row_bytes;
      const uint8_t *scales = w.scales + o / kFp8Group * w.scale_row_bytes;
      F acc[kRows][2];
      clear(acc);
      for (int k = 0; k < w.inputs; k += kMappedStep) {
        uint8_t copy[kMappedStep];
        const uint8_t *weights = whole_step(row, bytes, static_cast<size_t>(k), copy);
        const F scale = power(scales[k / kFp8Group]);
        for (int half = 0; half < 2; half++) {
          W first, second;
          decode_e4m3(order_for_pairs(load_int(weights + 64 * half)), first, second);
          for (int r = 0; r < kRows; r++) {
            const uint16_t *a = x[r] + k + 64 * half;
            const F part = dot2(dot2(zero(), first, load_pairs(a)), second, load_pairs(a + 32));
            acc[r][half] = fma(part, scale, acc[r][half]);
          }
        }
      }
      for (int r = 0; r < kRows; r++) tile.out[r * tile.stride + o - first_output] = sum(add(acc[r][0], acc[r][1]));
    }
  }

  static inline F power(uint8_t exponent) {
    const uint32_t bits = exponent ? static_cast<uint32_t>(exponent) << 23 : 0x00400000u;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return set(value);
  }
};

// Per 128 inputs each lane has the exact sum of 8 products, all of one group of 32; total = fma(sum, scale, total).
struct MappedFp4 {
  // Inputs whose lanes' corrections and scales are prepared at once; longer outputs are left and taken up again.
  static constexpr int kStretch = 8192;
  static constexpr int kMaxSteps = kStretch / kMappedStep;

  struct Lanes {
    alignas(64) int32_t corrections[kMaxSteps][16];
    alignas(64) float scales[kMaxSteps][16];

    void prepare(const int8_t *x, const float *x_scales, int num_steps) {
      for (int step = 0; step < num_steps; step++, x += kMappedStep, x_scales += 2) {
        I offset = set_int(0);
        if constexpr (kFp4Offset != 0) {
          const I weight = decode_fp4_low(set_int(0));
          offset = small_start(offset);
          offset = small_dot4(offset, weight, load_int(x));
          offset = small_dot4(offset, weight, load_int(x + 64));
          offset = sub_int(set_int(0), small_end(set_int(0), offset));
        }
        store_int(corrections[step], offset);
        // Half, because decoded weights are twice theirs.
        for (int lane = 0; lane < 16; lane++) scales[step][lane] = 0.5f * x_scales[lane / 8];
      }
    }
  };

  template <int kRows>
  static void run(const MappedTile &tile, int first_output, int end_output) {
    const Matrix &w = *tile.w;
    Lanes lanes[kRows];
    alignas(64) float unfinished[kBlockColumns][kRows][16];
    const size_t bytes = (static_cast<size_t>(w.inputs) + 1) / 2;
    const size_t num_groups = (static_cast<size_t>(w.inputs) + kFp4Group - 1) / kFp4Group;
    for (int start = 0; start < w.inputs; start += kStretch) {
      const int end = smaller(w.inputs, start + kStretch);
      const int8_t *x[kRows];
      for (int r = 0; r < kRows; r++) {
        const size_t at = tile.rows[r] * tile.x->stride + start;
        x[r] = tile.x->int8_mapped + at;
        lanes[r].prepare(x[r], tile.x->int8_scales + at / kActivationGroup,
                         (end - start + kMappedStep - 1) / kMappedStep);
      }
      for (int o = first_output; o < end_output; o++) {
        const uint8_t *row = w.data + o * w.row_bytes;
        const uint8_t *scales = w.scales + o * w.scale_row_bytes;
        F acc[kRows];
        for (int r = 0; r < kRows; r++) acc[r] = start ? load(unfinished[o - first_output][r]) : zero();
        for (int k = start, step = 0; k < end; k += kMappedStep, step++) {
          uint8_t copy[kMappedStep / 2], scale_copy[kMappedStep / kFp4Group];
          const I packed = load_int(whole_step(row, bytes, static_cast<size_t>(k) / 2, copy));
          const F scale = spread_powers(whole_step(scales, num_groups, static_cast<size_t>(k) / kFp4Group, scale_copy));
          const I even = decode_fp4_low(packed), odd = decode_fp4_high(packed);
          for (int r = 0; r < kRows; r++) {
            const int8_t *a = x[r] + k - start;
            const I correction = load_int(lanes[r].corrections[step]);
            I part = small_start(correction);
            part = small_dot4(part, even, load_int(a));
            part = small_dot4(part, odd, load_int(a + 64));
            part = small_end(correction, part);
            acc[r] = fma(to_float(part), mul(scale, load(lanes[r].scales[step])), acc[r]);
          }
        }
        for (int r = 0; r < kRows; r++) {
          if (end < w.inputs) {
            store(unfinished[o - first_output][r], acc[r]);
          } else {
            tile.out[r * tile.stride + o - first_output] = sum(acc[r]);
          }
        }
      }
    }
  }
};

template <typename Product, int kRows = kMappedRows>
static inline void run_mapped_rows(int rows, const MappedTile &tile, int first_output, int end_output) {
  if (rows == kRows) {
    Product::template run<kRows>(tile, first_output, end_output);
  } else if constexpr (kRows > 1) {
    run_mapped_rows<Product, kRows - 1>(rows, tile, first_output, end_output);
  }
}

template <typename Product>
static void multiply_mapped(const Matrix &w, const Activations &x, int rows, int first_block, int end_block, float *out,
                            size_t stride) {
  for (int block = first_block; block < end_block; block++) {
    const int first_output = block * kBlockColumns, end_output = smaller(w.outputs, first_output + kBlockColumns);
    for (int first = 0; first < rows;) {
      const int count = next_rows(rows - first, kMappedRows);
      int which[kMappedRows];
      for (int r = 0; r < count; r++) which[r] = x.row_of ? x.row_of[first + r] : first + r;
      float *columns = out + first * stride + first_output;
      run_mapped_rows<Product>(count, {&w, &x, which, columns, stride}, first_output, end_output);
      for (int r = 0; r < count; r++)
        for (int c = end_output - first_output; c < kBlockColumns; c++) columns[r * stride + c] = 0.0f;
      first += count;
    }
  }
}
