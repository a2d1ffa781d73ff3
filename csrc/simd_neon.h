// Sixteen float lanes as four vectors on NEON with dot products (Armv8.2); the names are explained in simd_avx512.h.
#pragma once

#include <arm_neon.h>

#include <cstdint>
#include <cstring>

namespace deepserve {
namespace neon {

constexpr const char *kName = "neon";
constexpr int kHeadTile = 4;
constexpr bool kUnsignedBytes = false;
constexpr int kTileRows = 4;
constexpr int tile_vectors(int rows) { return rows == 1 ? 4 : rows == 2 ? 2 : 1; }
constexpr int kFp4Offset = 0;

// Members instead of arrays, which compilers keep in memory.
struct F {
  float32x4_t v0, v1, v2, v3;
};
struct I {
  int32x4_t v0, v1, v2, v3;
};
struct P {
  uint16x8_t v0, v1, v2, v3;
};
struct M {
  uint32x4_t v0, v1, v2, v3;
};

template <typename To, typename Operation, typename... From>
inline To each(Operation operation, const From &...from) {
  return {operation(from.v0...), operation(from.v1...), operation(from.v2...), operation(from.v3...)};
}

inline F load(const float *p) { return {vld1q_f32(p), vld1q_f32(p + 4), vld1q_f32(p + 8), vld1q_f32(p + 12)}; }
inline void store(float *p, F a) {
  vst1q_f32(p, a.v0);
  vst1q_f32(p + 4, a.v1);
  vst1q_f32(p + 8, a.v2);
  vst1q_f32(p + 12, a.v3);
}
inline F load_some(const float *p, int n) {
  float some[16] = {};
  std::memcpy(some, p, static_cast<size_t>(n) * sizeof(float));
  return load(some);
}
inline void store_some(float *p, F a, int n) {
  float some[16];
  store(some, a);
  std::memcpy(p, some, static_cast<size_t>(n) * sizeof(float));
}
inline F set(float x) {
  const float32x4_t v = vdupq_n_f32(x);
  return {v, v, v, v};
}
inline F zero() { return set(0.0f); }
inline F add(F a, F b) {
  return each<F>([](float32x4_t x, float32x4_t y) { return vaddq_f32(x, y); }, a, b);
}
inline F sub(F a, F b) {
  return each<F>([](float32x4_t x, float32x4_t y) { return vsubq_f32(x, y); }, a, b);
}
inline F mul(F a, F b) {
  return each<F>([](float32x4_t x, float32x4_t y) { return vmulq_f32(x, y); }, a, b);
}
inline F div(F a, F b) {
  return each<F>([](float32x4_t x, float32x4_t y) { return vdivq_f32(x, y); }, a, b);
}
inline F fma(F a, F b, F c) {
  return each<F>([](float32x4_t x, float32x4_t y, float32x4_t z) { return vfmaq_f32(z, x, y); }, a, b, c);
}
inline F sqrt(F a) {
  return each<F>([](float32x4_t x) { return vsqrtq_f32(x); }, a);
}
// Not vmaxq and vminq: they treat values that are no numbers, and zeros, in another way.
inline F max(F a, F b) {
  return each<F>([](float32x4_t x, float32x4_t y) { return vbslq_f32(vcgtq_f32(x, y), x, y); }, a, b);
}
inline F min(F a, F b) {
  return each<F>([](float32x4_t x, float32x4_t y) { return vbslq_f32(vcltq_f32(x, y), x, y); }, a, b);
}
inline M less(F a, F b) {
  return each<M>([](float32x4_t x, float32x4_t y) { return vcltq_f32(x, y); }, a, b);
}
inline F select(M m, F yes, F no) {
  return each<F>([](uint32x4_t x, float32x4_t y, float32x4_t n) { return vbslq_f32(x, y, n); }, m, yes, no);
}
inline uint32_t bits(M m) {
  const uint32_t places[4] = {1, 2, 4, 8};
  const uint32x4_t place = vld1q_u32(places);
  return vaddvq_u32(vandq_u32(m.v0, place)) | vaddvq_u32(vandq_u32(m.v1, place)) << 4 |
         vaddvq_u32(vandq_u32(m.v2, place)) << 8 | vaddvq_u32(vandq_u32(m.v3, place)) << 12;
}
inline float sum(F a) {
  const float32x4_t x = vaddq_f32(vaddq_f32(a.v0, a.v2), vaddq_f32(a.v1, a.v3));
  const float32x2_t y = vadd_f32(vget_low_f32(x), vget_high_f32(x));
  return vget_lane_f32(y, 0) + vget_lane_f32(y, 1);
}
inline float highest(F a) { return vmaxvq_f32(vmaxq_f32(vmaxq_f32(a.v0, a.v1), vmaxq_f32(a.v2, a.v3))); }
inline F swap_pairs(F a) {
  return each<F>([](float32x4_t x) { return vrev64q_f32(x); }, a);
}

inline I round_to_int(F a) {
  return each<I>([](float32x4_t x) { return vcvtnq_s32_f32(x); }, a);
}
inline F to_float(I a) {
  return each<F>([](int32x4_t x) { return vcvtq_f32_s32(x); }, a);
}
inline I set_int(int32_t x) {
  const int32x4_t v = vdupq_n_s32(x);
  return {v, v, v, v};
}
inline I add_int(I a, I b) {
  return each<I>([](int32x4_t x, int32x4_t y) { return vaddq_s32(x, y); }, a, b);
}
inline I sub_int(I a, I b) {
  return each<I>([](int32x4_t x, int32x4_t y) { return vsubq_s32(x, y); }, a, b);
}
template <int N>
inline I shift_left(I a) {
  return each<I>([](int32x4_t x) { return vshlq_n_s32(x, N); }, a);
}
template <int N>
inline I shift_right(I a) {
  return each<I>([](int32x4_t x) { return vshrq_n_s32(x, N); }, a);
}
inline I and_int(I a, I b) {
  return each<I>([](int32x4_t x, int32x4_t y) { return vandq_s32(x, y); }, a, b);
}
inline I or_int(I a, I b) {
  return each<I>([](int32x4_t x, int32x4_t y) { return vorrq_s32(x, y); }, a, b);
}
inline I xor_int(I a, I b) {
  return each<I>([](int32x4_t x, int32x4_t y) { return veorq_s32(x, y); }, a, b);
}
inline I as_int(F a) {
  return each<I>([](float32x4_t x) { return vreinterpretq_s32_f32(x); }, a);
}
inline F as_float(I a) {
  return each<F>([](int32x4_t x) { return vreinterpretq_f32_s32(x); }, a);
}
inline int32x4_t load_quarter(const uint8_t *p) { return vreinterpretq_s32_u8(vld1q_u8(p)); }
inline I load_int(const void *p) {
  const uint8_t *bytes = static_cast<const uint8_t *>(p);
  return {load_quarter(bytes), load_quarter(bytes + 16), load_quarter(bytes + 32), load_quarter(bytes + 48)};
}
inline void store_int(void *p, I a) {
  uint8_t *bytes = static_cast<uint8_t *>(p);
  vst1q_u8(bytes, vreinterpretq_u8_s32(a.v0));
  vst1q_u8(bytes + 16, vreinterpretq_u8_s32(a.v1));
  vst1q_u8(bytes + 32, vreinterpretq_u8_s32(a.v2));
  vst1q_u8(bytes + 48, vreinterpretq_u8_s32(a.v3));
}
inline int16x8_t words_of(int32x4_t a, int32x4_t b) { return vcombine_s16(vmovn_s32(a), vmovn_s32(b)); }
inline void store_bytes(void *p, I a) {
  vst1q_s8(static_cast<int8_t *>(p), vcombine_s8(vmovn_s16(words_of(a.v0, a.v1)), vmovn_s16(words_of(a.v2, a.v3))));
}
inline void store_words(void *p, I a) {
  uint8_t *bytes = static_cast<uint8_t *>(p);
  vst1q_u8(bytes, vreinterpretq_u8_s16(words_of(a.v0, a.v1)));
  vst1q_u8(bytes + 16, vreinterpretq_u8_s16(words_of(a.v2, a.v3)));
}

inline I bf16_bits(F a) {
  return each<I>(
      [](float32x4_t x) {
        const uint32x4_t u = vreinterpretq_u32_f32(x);
        const uint32x4_t odd = vandq_u32(vshrq_n_u32(u, 16), vdupq_n_u32(1));
        const uint32x4_t r = vshrq_n_u32(vaddq_u32(u, vaddq_u32(odd, vdupq_n_u32(0x7fff))), 16);
        return vreinterpretq_s32_u32(vbslq_u32(vceqq_f32(x, x), r, vdupq_n_u32(0x7fc0)));
      },
      a);
}
inline void store_bf16(uint16_t *p, F a) { store_words(p, bf16_bits(a)); }
inline float32x4_t quarter_from_bf16(const uint16_t *p) { return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16)); }
inline F load_bf16(const uint16_t *p) {
  return {quarter_from_bf16(p), quarter_from_bf16(p + 4), quarter_from_bf16(p + 8), quarter_from_bf16(p + 12)};
}
inline P load_pairs(const uint16_t *p) {
  return {vld1q_u16(p), vld1q_u16(p + 8), vld1q_u16(p + 16), vld1q_u16(p + 24)};
}
inline void store_pairs(uint16_t *p, P a) {
  vst1q_u16(p, a.v0);
  vst1q_u16(p + 8, a.v1);
  vst1q_u16(p + 16, a.v2);
  vst1q_u16(p + 24, a.v3);
}
inline P set_pair(const uint16_t *p) {
  uint32_t pair;
  std::memcpy(&pair, p, 4);
  const uint16x8_t v = vreinterpretq_u16_u32(vdupq_n_u32(pair));
  return {v, v, v, v};
}
inline float32x4_t even_of(uint16x8_t pairs) {
  return vreinterpretq_f32_u32(vshlq_n_u32(vreinterpretq_u32_u16(pairs), 16));
}
inline float32x4_t odd_of(uint16x8_t pairs) {
  return vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_u16(pairs), vdupq_n_u32(0xffff0000u)));
}
// Not bfdot: it rounds in another way.
inline F dot2(F acc, P a, P b) {
  return each<F>([](float32x4_t sum, uint16x8_t x,
                    uint16x8_t y) { return vfmaq_f32(vfmaq_f32(sum, odd_of(x), odd_of(y)), even_of(x), even_of(y)); },
                 acc, a, b);
}
inline void interleave(P a, P b, P &low, P &high) {
  low = {vzip1q_u16(a.v0, b.v0), vzip2q_u16(a.v0, b.v0), vzip1q_u16(a.v1, b.v1), vzip2q_u16(a.v1, b.v1)};
  high = {vzip1q_u16(a.v2, b.v2), vzip2q_u16(a.v2, b.v2), vzip1q_u16(a.v3, b.v3), vzip2q_u16(a.v3, b.v3)};
}
inline int64x2_t as_halves(int32x4_t a) { return vreinterpretq_s64_s32(a); }
// One column of each of four rows' quarters.
struct Columns {
  int32x4_t v[4];
};
inline Columns transpose_4(int32x4_t a, int32x4_t b, int32x4_t c, int32x4_t d) {
  const int64x2_t ab_even = as_halves(vtrn1q_s32(a, b)), ab_odd = as_halves(vtrn2q_s32(a, b));
  const int64x2_t cd_even = as_halves(vtrn1q_s32(c, d)), cd_odd = as_halves(vtrn2q_s32(c, d));
  return {{vreinterpretq_s32_s64(vtrn1q_s64(ab_even, cd_even)), vreinterpretq_s32_s64(vtrn1q_s64(ab_odd, cd_odd)),
           vreinterpretq_s32_s64(vtrn2q_s64(ab_even, cd_even)), vreinterpretq_s32_s64(vtrn2q_s64(ab_odd, cd_odd))}};
}
inline void transpose(I rows[16]) {
  Columns quarters[4][4];  // [quarter of the columns][quarter of the rows]
  for (int i = 0; i < 4; i++) {
    const I &a = rows[4 * i], &b = rows[4 * i + 1], &c = rows[4 * i + 2], &d = rows[4 * i + 3];
    quarters[0][i] = transpose_4(a.v0, b.v0, c.v0, d.v0);
    quarters[1][i] = transpose_4(a.v1, b.v1, c.v1, d.v1);
    quarters[2][i] = transpose_4(a.v2, b.v2, c.v2, d.v2);
    quarters[3][i] = transpose_4(a.v3, b.v3, c.v3, d.v3);
  }
  for (int i = 0; i < 16; i++) {
    const Columns *from = quarters[i / 4];
    rows[i] = {from[0].v[i % 4], from[1].v[i % 4], from[2].v[i % 4], from[3].v[i % 4]};
  }
}

inline I dot4(I acc, I weights, I activations) {
  return each<I>([](int32x4_t sum, int32x4_t x,
                    int32x4_t y) { return vdotq_s32(sum, vreinterpretq_s8_s32(x), vreinterpretq_s8_s32(y)); },
                 acc, weights, activations);
}
inline I set_bytes(const void *p) {
  int32_t four;
  std::memcpy(&four, p, 4);
  return set_int(four);
}
inline I small_start(I acc) { return acc; }
inline I small_dot4(I part, I weights, I activations) { return dot4(part, weights, activations); }
inline I small_end(I, I part) { return part; }

inline float32x4_t powers_of(uint32x4_t exponents) {
  return vreinterpretq_f32_u32(vmaxq_u32(vshlq_n_u32(exponents, 23), vdupq_n_u32(0x00400000)));
}
inline F load_powers(const uint8_t *p) {
  const uint8x16_t bytes = vld1q_u8(p);
  const uint16x8_t low = vmovl_u8(vget_low_u8(bytes)), high = vmovl_u8(vget_high_u8(bytes));
  return {powers_of(vmovl_u16(vget_low_u16(low))), powers_of(vmovl_u16(vget_high_u16(low))),
          powers_of(vmovl_u16(vget_low_u16(high))), powers_of(vmovl_u16(vget_high_u16(high)))};
}
inline F spread_powers(const uint8_t *p) {
  return {powers_of(vdupq_n_u32(p[0])), powers_of(vdupq_n_u32(p[1])), powers_of(vdupq_n_u32(p[2])),
          powers_of(vdupq_n_u32(p[3]))};
}

inline uint8x16_t low_nibbles(uint8x16_t bytes) { return vandq_u8(bytes, vdupq_n_u8(15)); }
inline uint8x16_t high_nibbles(uint8x16_t bytes) { return vshrq_n_u8(bytes, 4); }
inline int32x4_t doubled_e2m1(uint8x16_t nibbles) {
  const int8_t values[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
  return vreinterpretq_s32_s8(vqtbl1q_s8(vld1q_s8(values), nibbles));
}
inline I decode_fp4_low(I packed) {
  return each<I>([](int32x4_t x) { return doubled_e2m1(low_nibbles(vreinterpretq_u8_s32(x))); }, packed);
}
inline I decode_fp4_high(I packed) {
  return each<I>([](int32x4_t x) { return doubled_e2m1(high_nibbles(vreinterpretq_u8_s32(x))); }, packed);
}
template <int N>
inline P decode_fp4_pairs(I packed) {
  // The two bytes of each bf16 value come from a table each; of every word one byte is wanted.
  const uint8_t highs[16] = {0,    0x3f, 0x3f, 0x3f, 0x40, 0x40, 0x40, 0x40,
                             0x80, 0xbf, 0xbf, 0xbf, 0xc0, 0xc0, 0xc0, 0xc0};
  const uint8_t lows[16] = {0, 0, 0x80, 0xc0, 0, 0x40, 0x80, 0xc0, 0, 0, 0x80, 0xc0, 0, 0x40, 0x80, 0xc0};
  const uint8x16_t high_table = vld1q_u8(highs), low_table = vld1q_u8(lows);
  return each<P>(
      [=](int32x4_t x) {
        const uint8x16_t bytes = vreinterpretq_u8_s32(x), nibbles = N % 2 ? high_nibbles(bytes) : low_nibbles(bytes);
        const uint16x8_t high = vreinterpretq_u16_u8(vqtbl1q_u8(high_table, nibbles));
        const uint16x8_t low = vreinterpretq_u16_u8(vqtbl1q_u8(low_table, nibbles));
        return N < 2 ? vsliq_n_u16(low, high, 8) : vsriq_n_u16(high, low, 8);
      },
      packed);
}

struct W {
  F even, odd;
};
inline F dot2(F acc, W a, P b) {
  const F odd =
      each<F>([](float32x4_t sum, float32x4_t x, uint16x8_t y) { return vfmaq_f32(sum, x, odd_of(y)); }, acc, a.odd, b);
  return each<F>([](float32x4_t sum, float32x4_t x, uint16x8_t y) { return vfmaq_f32(sum, x, even_of(y)); }, odd,
                 a.even, b);
}
// Words with a code each in the upper byte, as bf16 with the exponent not corrected yet.
inline uint16x8_t misplaced_e4m3(uint8x16_t words) {
  const int16x8_t shifted = vshrq_n_s16(vreinterpretq_s16_u8(words), 4);
  return vandq_u16(vreinterpretq_u16_s16(shifted), vdupq_n_u16(0x87f0));
}
inline W corrected_e4m3(P misplaced) {
  // The multiplication makes the exponent right, that of subnormals, too.
  return {each<F>([](uint16x8_t x) { return vmulq_n_f32(even_of(x), 0x1p120f); }, misplaced),
          each<F>([](uint16x8_t x) { return vmulq_n_f32(odd_of(x), 0x1p120f); }, misplaced)};
}
inline void decode_e4m3(I bytes, W &first, W &second) {
  const uint8x16_t none = vdupq_n_u8(0);
  first = corrected_e4m3(
      each<P>([=](int32x4_t x) { return misplaced_e4m3(vzip1q_u8(none, vreinterpretq_u8_s32(x))); }, bytes));
  second = corrected_e4m3(
      each<P>([=](int32x4_t x) { return misplaced_e4m3(vzip2q_u8(none, vreinterpretq_u8_s32(x))); }, bytes));
}
inline I order_for_pairs(I bytes) {
  const int64x2_t a = as_halves(bytes.v0), b = as_halves(bytes.v1), c = as_halves(bytes.v2), d = as_halves(bytes.v3);
  return {vreinterpretq_s32_s64(vzip1q_s64(a, c)), vreinterpretq_s32_s64(vzip2q_s64(a, c)),
          vreinterpretq_s32_s64(vzip1q_s64(b, d)), vreinterpretq_s32_s64(vzip2q_s64(b, d))};
}

}  // namespace neon
}  // namespace deepserve
