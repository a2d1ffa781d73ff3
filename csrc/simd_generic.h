// Sixteen float lanes as plain arrays, for any little-endian processor; the names are explained in simd_avx512.h.
//
// The loops are for the compiler to turn into whatever vectors its target has. Where that has no fused multiply-add,
// it is computed in double precision: several times slower, the same bits.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__FMA__) || defined(__aarch64__) || defined(__riscv_flen)
#define DS_HAS_FMA
#define DS_OUT_OF_LINE
#else
#define DS_OUT_OF_LINE __attribute__((noinline))  // sixteen times some twenty operations
#endif

namespace deepserve {
namespace generic {

constexpr const char *kName = "generic";
constexpr int kHeadTile = 2;
constexpr bool kUnsignedBytes = false;
constexpr int kTileRows = 4;
constexpr int tile_vectors(int rows) { return rows == 1 ? 4 : 1; }
constexpr int kFp4Offset = 0;

struct F {
  alignas(16) float v[16];
};
struct I {
  alignas(16) int32_t v[16];
};
struct P {
  alignas(16) uint16_t v[32];
};
struct M {
  uint8_t v[16];
};

template <typename Lane>
inline F lanes(Lane lane) {
  F a;
  for (int i = 0; i < 16; i++) a.v[i] = lane(i);
  return a;
}
template <typename Lane>
inline I int_lanes(Lane lane) {
  I a;
  for (int i = 0; i < 16; i++) a.v[i] = lane(i);
  return a;
}
template <typename To, typename From>
inline To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From), "same size");
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

inline float fused(float a, float b, float c) {
#if defined(DS_HAS_FMA)
  return __builtin_fmaf(a, b, c);
#else
  // The product is exact in double. If the sum is not, its last bit is made odd, so that rounding once more cannot
  // fall on a tie that was none (Boldo and Melquiond, Emulation of FMA and correctly rounded sums, 2008).
  const double product = static_cast<double>(a) * static_cast<double>(b);
  const double total = product + static_cast<double>(c);
  const double from_c = total - product;
  const double error = (product - (total - from_c)) + (static_cast<double>(c) - from_c);
  const int64_t bits = bits_as<int64_t>(total);
  const bool is_inexact = (error > 0) | (error < 0);  // neither where the sum is infinite
  const int64_t step = (error > 0) == (total > 0) ? 1 : -1;
  return static_cast<float>(bits_as<double>(bits + (is_inexact ? step & -(~bits & 1) : 0)));
#endif
}

inline F load(const float *p) {
  F a;
  std::memcpy(a.v, p, sizeof a.v);
  return a;
}
inline void store(float *p, F a) { std::memcpy(p, a.v, sizeof a.v); }
inline F load_some(const float *p, int n) {
  F a = {};
  std::memcpy(a.v, p, static_cast<size_t>(n) * sizeof(float));
  return a;
}
inline void store_some(float *p, F a, int n) { std::memcpy(p, a.v, static_cast<size_t>(n) * sizeof(float)); }
inline F set(float x) {
  return lanes([=](int) { return x; });
}
inline F zero() { return set(0.0f); }
inline F add(F a, F b) {
  return lanes([&](int i) { return a.v[i] + b.v[i]; });
}
inline F sub(F a, F b) {
  return lanes([&](int i) { return a.v[i] - b.v[i]; });
}
inline F mul(F a, F b) {
  return lanes([&](int i) { return a.v[i] * b.v[i]; });
}
inline F div(F a, F b) {
  return lanes([&](int i) { return a.v[i] / b.v[i]; });
}
DS_OUT_OF_LINE inline F fma(F a, F b, F c) {
  return lanes([&](int i) { return fused(a.v[i], b.v[i], c.v[i]); });
}
inline F sqrt(F a) {
  return lanes([&](int i) { return __builtin_sqrtf(a.v[i]); });
}
inline F max(F a, F b) {
  return lanes([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}
inline F min(F a, F b) {
  return lanes([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
}
inline M less(F a, F b) {
  M m;
  for (int i = 0; i < 16; i++) m.v[i] = a.v[i] < b.v[i];
  return m;
}
inline F select(M m, F yes, F no) {
  return lanes([&](int i) { return m.v[i] ? yes.v[i] : no.v[i]; });
}
inline uint32_t bits(M m) {
  uint32_t all = 0;
  for (int i = 0; i < 16; i++) all |= static_cast<uint32_t>(m.v[i]) << i;
  return all;
}
inline float sum(F a) {
  for (int half = 8; half; half /= 2)
    for (int i = 0; i < half; i++) a.v[i] += a.v[i + half];
  return a.v[0];
}
inline float highest(F a) {
  float top = a.v[0];
  for (int i = 1; i < 16; i++) top = top > a.v[i] ? top : a.v[i];
  return top;
}
inline F swap_pairs(F a) {
  return lanes([&](int i) { return a.v[i ^ 1]; });
}

inline I round_to_int(F a) {
  return int_lanes([&](int i) { return static_cast<int32_t>(__builtin_lrintf(a.v[i])); });
}
inline F to_float(I a) {
  return lanes([&](int i) { return static_cast<float>(a.v[i]); });
}
inline I set_int(int32_t x) {
  return int_lanes([=](int) { return x; });
}
// Sums and shifts wrap around, as in the machines' vectors.
inline I add_int(I a, I b) {
  return int_lanes(
      [&](int i) { return static_cast<int32_t>(static_cast<uint32_t>(a.v[i]) + static_cast<uint32_t>(b.v[i])); });
}
inline I sub_int(I a, I b) {
  return int_lanes(
      [&](int i) { return static_cast<int32_t>(static_cast<uint32_t>(a.v[i]) - static_cast<uint32_t>(b.v[i])); });
}
template <int N>
inline I shift_left(I a) {
  return int_lanes([&](int i) { return static_cast<int32_t>(static_cast<uint32_t>(a.v[i]) << N); });
}
template <int N>
inline I shift_right(I a) {
  return int_lanes([&](int i) { return a.v[i] >> N; });
}
inline I and_int(I a, I b) {
  return int_lanes([&](int i) { return a.v[i] & b.v[i]; });
}
inline I or_int(I a, I b) {
  return int_lanes([&](int i) { return a.v[i] | b.v[i]; });
}
inline I xor_int(I a, I b) {
  return int_lanes([&](int i) { return a.v[i] ^ b.v[i]; });
}
inline I as_int(F a) { return bits_as<I>(a); }
inline F as_float(I a) { return bits_as<F>(a); }
inline I load_int(const void *p) {
  I a;
  std::memcpy(a.v, p, sizeof a.v);
  return a;
}
inline void store_int(void *p, I a) { std::memcpy(p, a.v, sizeof a.v); }
inline void store_bytes(void *p, I a) {
  uint8_t bytes[16];
  for (int i = 0; i < 16; i++) bytes[i] = static_cast<uint8_t>(a.v[i]);
  std::memcpy(p, bytes, sizeof bytes);
}
inline void store_words(void *p, I a) {
  uint16_t words[16];
  for (int i = 0; i < 16; i++) words[i] = static_cast<uint16_t>(a.v[i]);
  std::memcpy(p, words, sizeof words);
}

inline I bf16_bits(F a) {
  return int_lanes([&](int i) {
    const uint32_t u = bits_as<uint32_t>(a.v[i]);
    return static_cast<int32_t>(a.v[i] == a.v[i] ? (u + 0x7fff + (u >> 16 & 1)) >> 16 : 0x7fc0u);
  });
}
inline void store_bf16(uint16_t *p, F a) { store_words(p, bf16_bits(a)); }
inline F load_bf16(const uint16_t *p) {
  return lanes([&](int i) { return bits_as<float>(static_cast<uint32_t>(p[i]) << 16); });
}
inline P load_pairs(const uint16_t *p) {
  P a;
  std::memcpy(a.v, p, sizeof a.v);
  return a;
}
inline void store_pairs(uint16_t *p, P a) { std::memcpy(p, a.v, sizeof a.v); }
inline P set_pair(const uint16_t *p) {
  P a;
  for (int i = 0; i < 32; i++) a.v[i] = p[i % 2];
  return a;
}
DS_OUT_OF_LINE inline F dot2(F acc, P a, P b) {
  const auto part = [](const P &of, int i) { return bits_as<float>(static_cast<uint32_t>(of.v[i]) << 16); };
  return lanes([&](int i) {
    const float odd = fused(part(a, 2 * i + 1), part(b, 2 * i + 1), acc.v[i]);
    return fused(part(a, 2 * i), part(b, 2 * i), odd);
  });
}
inline void interleave(P a, P b, P &low, P &high) {
  for (int i = 0; i < 16; i++) {
    low.v[2 * i] = a.v[i];
    low.v[2 * i + 1] = b.v[i];
    high.v[2 * i] = a.v[16 + i];
    high.v[2 * i + 1] = b.v[16 + i];
  }
}
inline void transpose(I rows[16]) {
  for (int i = 0; i < 16; i++)
    for (int j = 0; j < i; j++) {
      const int32_t t = rows[i].v[j];
      rows[i].v[j] = rows[j].v[i];
      rows[j].v[i] = t;
    }
}

inline I dot4(I acc, I weights, I activations) {
  const auto byte = [](const I &of, int lane, int i) {
    return static_cast<int32_t>(static_cast<int8_t>(static_cast<uint32_t>(of.v[lane]) >> 8 * i));
  };
  return int_lanes([&](int lane) {
    int32_t total = acc.v[lane];
    for (int i = 0; i < 4; i++) total += byte(weights, lane, i) * byte(activations, lane, i);
    return total;
  });
}
inline I set_bytes(const void *p) {
  int32_t four;
  std::memcpy(&four, p, 4);
  return set_int(four);
}
inline I small_start(I acc) { return acc; }
inline I small_dot4(I part, I weights, I activations) { return dot4(part, weights, activations); }
inline I small_end(I, I part) { return part; }

inline float power_of_two(uint8_t exponent) {
  return bits_as<float>(exponent ? static_cast<uint32_t>(exponent) << 23 : 0x00400000u);
}
inline F load_powers(const uint8_t *p) {
  return lanes([=](int i) { return power_of_two(p[i]); });
}
inline F spread_powers(const uint8_t *p) {
  return lanes([=](int i) { return power_of_two(p[i / 4]); });
}

inline I decode_fp4_low(I packed) {
  constexpr int8_t kDoubled[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
  return int_lanes([&](int lane) {
    uint32_t bytes = 0;
    for (int i = 0; i < 4; i++) {
      const int8_t value = kDoubled[static_cast<uint32_t>(packed.v[lane]) >> 8 * i & 15];
      bytes |= static_cast<uint32_t>(static_cast<uint8_t>(value)) << 8 * i;
    }
    return static_cast<int32_t>(bytes);
  });
}
inline I decode_fp4_high(I packed) {
  return decode_fp4_low(
      int_lanes([&](int i) { return static_cast<int32_t>(static_cast<uint32_t>(packed.v[i]) >> 4); }));
}
template <int N>
inline P decode_fp4_pairs(I packed) {
  constexpr uint16_t kValues[16] = {0x0000, 0x3f00, 0x3f80, 0x3fc0, 0x4000, 0x4040, 0x4080, 0x40c0,
                                    0x8000, 0xbf00, 0xbf80, 0xbfc0, 0xc000, 0xc040, 0xc080, 0xc0c0};
  const P words = bits_as<P>(packed);
  P pairs;
  for (int i = 0; i < 32; i++) pairs.v[i] = kValues[words.v[i] >> 4 * N & 15];
  return pairs;
}

using W = P;
inline uint16_t bf16_from_e4m3(uint8_t code) {
  // As if the exponent had float's bias, then corrected by a multiplication: right for subnormals, too.
  const float value = bits_as<float>(static_cast<uint32_t>(code & 127) << 20) * 0x1p120f;
  return static_cast<uint16_t>(bits_as<uint32_t>(value) >> 16 | static_cast<uint32_t>(code & 128) << 8);
}
inline void decode_e4m3(I bytes, W &first, W &second) {
  uint8_t codes[64];
  std::memcpy(codes, bytes.v, sizeof codes);
  for (int i = 0; i < 32; i++) {
    first.v[i] = bf16_from_e4m3(codes[i / 8 * 16 + i % 8]);
    second.v[i] = bf16_from_e4m3(codes[i / 8 * 16 + 8 + i % 8]);
  }
}
inline I order_for_pairs(I bytes) {
  uint64_t from[8], to[8];
  std::memcpy(from, bytes.v, sizeof from);
  for (int i = 0; i < 8; i++) to[i] = from[i % 2 * 4 + i / 2];
  return load_int(to);
}

}  // namespace generic
}  // namespace deepserve
