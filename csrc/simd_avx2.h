// Sixteen float lanes as two vectors on AVX2 with FMA and F16C; the names are explained in simd_avx512.h.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace deepserve {
namespace avx2 {

constexpr const char *kName = "avx2";
constexpr int kHeadTile = 4;
constexpr bool kUnsignedBytes = false;
constexpr int kTileRows = 5;
constexpr int tile_vectors(int rows) { return rows == 1 ? 4 : rows <= 3 ? 2 : 1; }
constexpr int kFp4Offset = 12;

struct F {
  __m256 low, high;
};
struct I {
  __m256i low, high;
};
struct P {
  __m256i low, high;
};
struct M {
  __m256 low, high;
};

inline __m256i load_half(const void *p) { return _mm256_loadu_si256(static_cast<const __m256i *>(p)); }
inline void store_half(void *p, __m256i a) { _mm256_storeu_si256(static_cast<__m256i *>(p), a); }
// All ones in the lanes first, first + 1, ... that are below n.
inline __m256i lanes_below(int n, int first) {
  const __m256i numbers = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n - first), numbers);
}

inline F load(const float *p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline void store(float *p, F a) {
  _mm256_storeu_ps(p, a.low);
  _mm256_storeu_ps(p + 8, a.high);
}
inline F load_some(const float *p, int n) {
  return {_mm256_maskload_ps(p, lanes_below(n, 0)), _mm256_maskload_ps(p + 8, lanes_below(n, 8))};
}
inline void store_some(float *p, F a, int n) {
  _mm256_maskstore_ps(p, lanes_below(n, 0), a.low);
  _mm256_maskstore_ps(p + 8, lanes_below(n, 8), a.high);
}
inline F set(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
inline F zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
inline F add(F a, F b) { return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)}; }
inline F sub(F a, F b) { return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)}; }
inline F mul(F a, F b) { return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)}; }
inline F div(F a, F b) { return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)}; }
inline F fma(F a, F b, F c) { return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)}; }
inline F sqrt(F a) { return {_mm256_sqrt_ps(a.low), _mm256_sqrt_ps(a.high)}; }
inline F max(F a, F b) { return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)}; }
inline F min(F a, F b) { return {_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)}; }
inline M less(F a, F b) { return {_mm256_cmp_ps(a.low, b.low, _CMP_LT_OQ), _mm256_cmp_ps(a.high, b.high, _CMP_LT_OQ)}; }
inline F select(M m, F yes, F no) {
  return {_mm256_blendv_ps(no.low, yes.low, m.low), _mm256_blendv_ps(no.high, yes.high, m.high)};
}
inline uint32_t bits(M m) {
  return static_cast<uint32_t>(_mm256_movemask_ps(m.low)) | static_cast<uint32_t>(_mm256_movemask_ps(m.high)) << 8;
}
inline float sum(F a) {
  const __m256 x = _mm256_add_ps(a.low, a.high);
  __m128 y = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  y = _mm_add_ps(y, _mm_movehl_ps(y, y));
  return _mm_cvtss_f32(_mm_add_ss(y, _mm_shuffle_ps(y, y, 1)));
}
inline float highest(F a) {
  const __m256 x = _mm256_max_ps(a.low, a.high);
  __m128 y = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  y = _mm_max_ps(y, _mm_movehl_ps(y, y));
  return _mm_cvtss_f32(_mm_max_ss(y, _mm_shuffle_ps(y, y, 1)));
}
inline F swap_pairs(F a) { return {_mm256_permute_ps(a.low, 0xB1), _mm256_permute_ps(a.high, 0xB1)}; }

inline I round_to_int(F a) { return {_mm256_cvtps_epi32(a.low), _mm256_cvtps_epi32(a.high)}; }
inline F to_float(I a) { return {_mm256_cvtepi32_ps(a.low), _mm256_cvtepi32_ps(a.high)}; }
inline I set_int(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
inline I add_int(I a, I b) { return {_mm256_add_epi32(a.low, b.low), _mm256_add_epi32(a.high, b.high)}; }
inline I sub_int(I a, I b) { return {_mm256_sub_epi32(a.low, b.low), _mm256_sub_epi32(a.high, b.high)}; }
template <int N>
inline I shift_left(I a) {
  return {_mm256_slli_epi32(a.low, N), _mm256_slli_epi32(a.high, N)};
}
template <int N>
inline I shift_right(I a) {
  return {_mm256_srai_epi32(a.low, N), _mm256_srai_epi32(a.high, N)};
}
inline I and_int(I a, I b) { return {_mm256_and_si256(a.low, b.low), _mm256_and_si256(a.high, b.high)}; }
inline I or_int(I a, I b) { return {_mm256_or_si256(a.low, b.low), _mm256_or_si256(a.high, b.high)}; }
inline I xor_int(I a, I b) { return {_mm256_xor_si256(a.low, b.low), _mm256_xor_si256(a.high, b.high)}; }
inline I as_int(F a) { return {_mm256_castps_si256(a.low), _mm256_castps_si256(a.high)}; }
inline F as_float(I a) { return {_mm256_castsi256_ps(a.low), _mm256_castsi256_ps(a.high)}; }
inline I load_int(const void *p) { return {load_half(p), load_half(static_cast<const uint8_t *>(p) + 32)}; }
inline void store_int(void *p, I a) {
  store_half(p, a.low);
  store_half(static_cast<uint8_t *>(p) + 32, a.high);
}
// The low halves of all lanes in order, upper bits cleared before so that packing does not saturate.
inline __m256i words_of(I a) {
  const __m256i word = _mm256_set1_epi32(0xffff);
  const __m256i packed = _mm256_packus_epi32(_mm256_and_si256(a.low, word), _mm256_and_si256(a.high, word));
  return _mm256_permute4x64_epi64(packed, 0xD8);
}
inline void store_bytes(void *p, I a) {
  const __m256i words = words_of(and_int(a, set_int(0xff)));
  _mm_storeu_si128(static_cast<__m128i *>(p),
                   _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
}
inline void store_words(void *p, I a) { store_half(p, words_of(a)); }

inline __m256i bf16_bits(__m256 a) {
  const __m256i u = _mm256_castps_si256(a);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
  const __m256i r = _mm256_srli_epi32(_mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(a, a, _CMP_UNORD_Q));
  return _mm256_blendv_epi8(r, _mm256_set1_epi32(0x7fc0), nan);
}
inline I bf16_bits(F a) { return {bf16_bits(a.low), bf16_bits(a.high)}; }
inline void store_bf16(uint16_t *p, F a) { store_words(p, bf16_bits(a)); }
inline __m256 half_from_bf16(const uint16_t *p) {
  const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p)));
  return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}
inline F load_bf16(const uint16_t *p) { return {half_from_bf16(p), half_from_bf16(p + 8)}; }
inline P load_pairs(const uint16_t *p) { return {load_half(p), load_half(p + 16)}; }
inline void store_pairs(uint16_t *p, P a) {
  store_half(p, a.low);
  store_half(p + 16, a.high);
}
inline P set_pair(const uint16_t *p) {
  int32_t pair;
  std::memcpy(&pair, p, 4);
  return {_mm256_set1_epi32(pair), _mm256_set1_epi32(pair)};
}
inline __m256 even_of(__m256i pairs) { return _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16)); }
inline __m256 odd_of(__m256i pairs) {
  return _mm256_castsi256_ps(_mm256_and_si256(pairs, _mm256_set1_epi32(static_cast<int32_t>(0xffff0000u))));
}
inline F even_of(P a) { return {even_of(a.low), even_of(a.high)}; }
inline F odd_of(P a) { return {odd_of(a.low), odd_of(a.high)}; }
inline F dot2(F acc, P a, P b) { return fma(even_of(a), even_of(b), fma(odd_of(a), odd_of(b), acc)); }
inline void interleave(__m256i a, __m256i b, P &both) {
  const __m256i low = _mm256_unpacklo_epi16(a, b), high = _mm256_unpackhi_epi16(a, b);
  both.low = _mm256_permute2x128_si256(low, high, 0x20);
  both.high = _mm256_permute2x128_si256(low, high, 0x31);
}
inline void interleave(P a, P b, P &low, P &high) {
  interleave(a.low, b.low, low);
  interleave(a.high, b.high, high);
}
// 8 rows of 8 dwords -> 8 columns.
inline void transpose_8(__m256i rows[8]) {
  __m256i t[8], u[8];
  for (int i = 0; i < 4; i++) {
    t[2 * i] = _mm256_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
    t[2 * i + 1] = _mm256_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
  }
  for (int i = 0; i < 2; i++) {
    u[4 * i] = _mm256_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
    u[4 * i + 1] = _mm256_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
    u[4 * i + 2] = _mm256_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
    u[4 * i + 3] = _mm256_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
  }
  for (int i = 0; i < 4; i++) {
    rows[i] = _mm256_permute2x128_si256(u[i], u[i + 4], 0x20);
    rows[i + 4] = _mm256_permute2x128_si256(u[i], u[i + 4], 0x31);
  }
}
inline void transpose(I rows[16]) {
  __m256i quarters[2][2][8];  // [half of the rows][half of the columns]
  for (int i = 0; i < 16; i++) {
    quarters[i / 8][0][i % 8] = rows[i].low;
    quarters[i / 8][1][i % 8] = rows[i].high;
  }
  for (int i = 0; i < 4; i++) transpose_8(quarters[i / 2][i % 2]);
  for (int i = 0; i < 16; i++) rows[i] = {quarters[0][i / 8][i % 8], quarters[1][i / 8][i % 8]};
}

// Unsigned times signed bytes is what the machine has: |weight| times the activation with the weight's sign. Two such
// products fit 16 bits.
inline __m256i dot4(__m256i acc, __m256i weights, __m256i activations) {
  const __m256i words = _mm256_maddubs_epi16(_mm256_abs_epi8(weights), _mm256_sign_epi8(activations, weights));
  return _mm256_add_epi32(acc, _mm256_madd_epi16(words, _mm256_set1_epi16(1)));
}
inline I dot4(I acc, I weights, I activations) {
  return {dot4(acc.low, weights.low, activations.low), dot4(acc.high, weights.high, activations.high)};
}
inline I set_bytes(const void *p) {
  int32_t four;
  std::memcpy(&four, p, 4);
  return set_int(four);
}
// Sums of words: four steps of two products are at most 4 * 2 * 24 * 127 < 2^15.
inline I small_start(I) { return set_int(0); }
inline I small_dot4(I part, I weights, I activations) {
  return {_mm256_add_epi16(part.low, _mm256_maddubs_epi16(weights.low, activations.low)),
          _mm256_add_epi16(part.high, _mm256_maddubs_epi16(weights.high, activations.high))};
}
inline I small_end(I acc, I part) {
  const __m256i ones = _mm256_set1_epi16(1);
  return add_int(acc, {_mm256_madd_epi16(part.low, ones), _mm256_madd_epi16(part.high, ones)});
}

inline __m256 powers_of(__m256i exponents_in_place) {
  return _mm256_castsi256_ps(_mm256_max_epi32(exponents_in_place, _mm256_set1_epi32(0x00400000)));
}
inline __m256 half_of_powers(const uint8_t *p) {
  const __m256i exponents = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i *>(p)));
  return powers_of(_mm256_slli_epi32(exponents, 23));
}
inline F load_powers(const uint8_t *p) { return {half_of_powers(p), half_of_powers(p + 8)}; }
inline F spread_powers(const uint8_t *p) {
  int32_t four;
  std::memcpy(&four, p, 4);
  const __m256i all = _mm256_set1_epi32(four);
  const __m256i first =
      _mm256_setr_epi32(0x00808080, 0x00808080, 0x00808080, 0x00808080, 0x01808080, 0x01808080, 0x01808080, 0x01808080);
  const __m256i second = _mm256_add_epi32(first, _mm256_set1_epi32(0x02000000));
  return {powers_of(_mm256_srli_epi32(_mm256_shuffle_epi8(all, first), 1)),
          powers_of(_mm256_srli_epi32(_mm256_shuffle_epi8(all, second), 1))};
}

inline __m256i low_nibbles(__m256i bytes) { return _mm256_and_si256(bytes, _mm256_set1_epi8(15)); }
inline __m256i high_nibbles(__m256i bytes) { return low_nibbles(_mm256_srli_epi16(bytes, 4)); }
inline __m256i look_up(__m128i table, __m256i nibbles) {
  return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(table), nibbles);
}
inline I decode_fp4(__m256i low, __m256i high) {
  const __m128i doubled = _mm_setr_epi8(12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0);
  return {look_up(doubled, low), look_up(doubled, high)};
}
inline I decode_fp4_low(I packed) { return decode_fp4(low_nibbles(packed.low), low_nibbles(packed.high)); }
inline I decode_fp4_high(I packed) { return decode_fp4(high_nibbles(packed.low), high_nibbles(packed.high)); }
template <int N>
inline __m256i decode_fp4_pairs(__m256i packed) {
  const __m256i nibbles = N % 2 ? high_nibbles(packed) : low_nibbles(packed);
  // The two bytes of each bf16 value come from a table each; of every word one byte is wanted.
  const __m256i high = look_up(_mm_setr_epi8(0, 0x3f, 0x3f, 0x3f, 0x40, 0x40, 0x40, 0x40, -0x80, -0x41, -0x41, -0x41,
                                             -0x40, -0x40, -0x40, -0x40),
                               nibbles);
  const __m256i low = look_up(
      _mm_setr_epi8(0, 0, -0x80, -0x40, 0, 0x40, -0x80, -0x40, 0, 0, -0x80, -0x40, 0, 0x40, -0x80, -0x40), nibbles);
  const __m256i low_byte = _mm256_set1_epi16(0xff);
  if constexpr (N < 2) {
    return _mm256_or_si256(_mm256_slli_epi16(high, 8), _mm256_and_si256(low, low_byte));
  } else {
    return _mm256_or_si256(_mm256_andnot_si256(low_byte, high), _mm256_srli_epi16(low, 8));
  }
}
template <int N>
inline P decode_fp4_pairs(I packed) {
  return {decode_fp4_pairs<N>(packed.low), decode_fp4_pairs<N>(packed.high)};
}

struct W {
  F even, odd;
};
inline F dot2(F acc, W a, P b) { return fma(a.even, even_of(b), fma(a.odd, odd_of(b), acc)); }
// Words with a code each in the upper byte -> two floats.
inline void decode_e4m3(__m256i words, __m256 &even, __m256 &odd) {
  // As if the exponent had bf16's bias, then corrected by a multiplication: right for subnormals, too.
  const __m256i misplaced =
      _mm256_and_si256(_mm256_srai_epi16(words, 4), _mm256_set1_epi16(static_cast<int16_t>(0x87f0)));
  const __m256 correction = _mm256_set1_ps(0x1p120f);
  even = _mm256_mul_ps(even_of(misplaced), correction);
  odd = _mm256_mul_ps(odd_of(misplaced), correction);
}
inline void decode_e4m3(I bytes, W &first, W &second) {
  const __m256i none = _mm256_setzero_si256();
  decode_e4m3(_mm256_unpacklo_epi8(none, bytes.low), first.even.low, first.odd.low);
  decode_e4m3(_mm256_unpacklo_epi8(none, bytes.high), first.even.high, first.odd.high);
  decode_e4m3(_mm256_unpackhi_epi8(none, bytes.low), second.even.low, second.odd.low);
  decode_e4m3(_mm256_unpackhi_epi8(none, bytes.high), second.even.high, second.odd.high);
}
inline I order_for_pairs(I bytes) {
  const __m256i even = _mm256_unpacklo_epi64(bytes.low, bytes.high);  // eight-byte pieces 0 4 2 6
  const __m256i odd = _mm256_unpackhi_epi64(bytes.low, bytes.high);   // 1 5 3 7
  return {_mm256_permute2x128_si256(even, odd, 0x20), _mm256_permute2x128_si256(even, odd, 0x31)};
}

}  // namespace avx2
}  // namespace deepserve
