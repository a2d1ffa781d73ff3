// Sixteen float lanes on AVX-512 (F, BW, DQ, VL, VNNI, BF16, VBMI).
//
// Every simd_*.h defines the same names, documented here. All float operations are IEEE, fused where they say so, so
// the same template gives the same bits everywhere.
#pragma once

// GCC 12 warns about its own intrinsics' deliberately undefined operands (GCC bug 105593).
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif

#include <cstdint>
#include <cstring>

namespace deepserve {
namespace avx512 {

constexpr const char *kName = "avx512";
constexpr int kHeadTile = 8;           // heads (rows) per register tile where a tile is one vector wide
constexpr bool kUnsignedBytes = true;  // dot4 takes weight bytes as 0..255, else as value - 128
// Matrix products: the most rows of a register tile, and how many vectors wide it is. One row takes whole blocks, so
// that it reads them as one stream.
constexpr int kTileRows = 6;
constexpr int tile_vectors(int) { return 4; }
constexpr int kFp4Offset = 12;  // decode_fp4_low and _high give twice the value plus this

struct F {  // 16 floats
  __m512 v;
};
struct I {  // 16 int32
  // Typed as what they are: where the type changes from sum to sum, GCC copies accumulators back and forth.
  __v16si v;

  I() = default;
  I(__m512i lanes) : v((__v16si)lanes) {}
  operator __m512i() const { return (__m512i)v; }
};
struct P {  // 16 pairs of bf16, the even element low
  __m512i v;
};
struct M {  // 16 booleans
  __mmask16 v;
};

inline F load(const float *p) { return {_mm512_loadu_ps(p)}; }
inline void store(float *p, F a) { _mm512_storeu_ps(p, a.v); }
// The first n of 16; the others are 0 when loaded and left alone when stored.
inline F load_some(const float *p, int n) { return {_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << n) - 1), p)}; }
inline void store_some(float *p, F a, int n) { _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << n) - 1), a.v); }
inline F set(float x) { return {_mm512_set1_ps(x)}; }
inline F zero() { return {_mm512_setzero_ps()}; }
inline F add(F a, F b) { return {_mm512_add_ps(a.v, b.v)}; }
inline F sub(F a, F b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline F mul(F a, F b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline F div(F a, F b) { return {_mm512_div_ps(a.v, b.v)}; }
inline F fma(F a, F b, F c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }  // a * b + c, rounded once
inline F sqrt(F a) { return {_mm512_sqrt_ps(a.v)}; }
inline F max(F a, F b) { return {_mm512_max_ps(a.v, b.v)}; }  // a > b ? a : b
inline F min(F a, F b) { return {_mm512_min_ps(a.v, b.v)}; }  // a < b ? a : b
inline M less(F a, F b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ)}; }
inline F select(M m, F yes, F no) { return {_mm512_mask_blend_ps(m.v, no.v, yes.v)}; }
inline uint32_t bits(M m) { return m.v; }
// Fixed tree: lanes i and i+8, then i+4, i+2, i+1.
inline float sum(F a) {
  __m256 x = _mm256_add_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
  __m128 y = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  y = _mm_add_ps(y, _mm_movehl_ps(y, y));
  return _mm_cvtss_f32(_mm_add_ss(y, _mm_shuffle_ps(y, y, 1)));
}
inline float highest(F a) { return _mm512_reduce_max_ps(a.v); }
inline F swap_pairs(F a) { return {_mm512_permute_ps(a.v, 0xB1)}; }  // lanes 2i and 2i+1 change places

inline I round_to_int(F a) { return {_mm512_cvtps_epi32(a.v)}; }  // to nearest, ties to even
inline F to_float(I a) { return {_mm512_cvtepi32_ps(a)}; }
inline I set_int(int32_t x) { return {_mm512_set1_epi32(x)}; }
inline I add_int(I a, I b) { return {_mm512_add_epi32(a, b)}; }
inline I sub_int(I a, I b) { return {_mm512_sub_epi32(a, b)}; }
template <int N>
inline I shift_left(I a) {
  return {_mm512_slli_epi32(a, N)};
}
template <int N>
inline I shift_right(I a) {
  return {_mm512_srai_epi32(a, N)};
}  // arithmetic
inline I and_int(I a, I b) { return {_mm512_and_si512(a, b)}; }
inline I or_int(I a, I b) { return {_mm512_or_si512(a, b)}; }
inline I xor_int(I a, I b) { return {_mm512_xor_si512(a, b)}; }
inline I as_int(F a) { return {_mm512_castps_si512(a.v)}; }
inline F as_float(I a) { return {_mm512_castsi512_ps(a)}; }
inline I load_int(const void *p) { return {_mm512_loadu_si512(p)}; }
inline void store_int(void *p, I a) { _mm512_storeu_si512(p, a); }
// The low byte of each lane, 16 bytes.
inline void store_bytes(void *p, I a) { _mm_storeu_si128(static_cast<__m128i *>(p), _mm512_cvtepi32_epi8(a)); }
// The low half of each lane, 16 words.
inline void store_words(void *p, I a) { _mm256_storeu_si256(static_cast<__m256i *>(p), _mm512_cvtepi32_epi16(a)); }

// bf16: to nearest, ties to even; NaN stays NaN.
inline I bf16_bits(F a) {
  __m512i u = _mm512_castps_si512(a.v);
  __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
  __m512i r = _mm512_srli_epi32(_mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))), 16);
  __mmask16 nan = _mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q);
  return {_mm512_mask_mov_epi32(r, nan, _mm512_set1_epi32(0x7fc0))};
}
inline void store_bf16(uint16_t *p, F a) { store_words(p, bf16_bits(a)); }
inline F load_bf16(const uint16_t *p) {
  __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(p)));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(wide, 16))};
}
inline P load_pairs(const uint16_t *p) { return {_mm512_loadu_si512(p)}; }
inline void store_pairs(uint16_t *p, P a) { _mm512_storeu_si512(p, a.v); }
inline P set_pair(const uint16_t *p) {  // one pair in every lane
  int32_t pair;
  std::memcpy(&pair, p, 4);
  return {_mm512_set1_epi32(pair)};
}
// acc + a.odd * b.odd, rounded, then + a.even * b.even, rounded.
inline F dot2(F acc, P a, P b) { return {_mm512_dpbf16_ps(acc.v, (__m512bh)a.v, (__m512bh)b.v)}; }
// Two rows of 32 bf16 -> pairs (a[i], b[i]) for i 0..15 and 16..31.
inline void interleave(P a, P b, P &low, P &high) {
  alignas(64) static constexpr uint16_t kLow[32] = {0, 32, 1, 33, 2,  34, 3,  35, 4,  36, 5,  37, 6,  38, 7,  39,
                                                    8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47};
  const __m512i low_places = _mm512_load_si512(kLow);
  const __m512i high_places = _mm512_add_epi16(low_places, _mm512_set1_epi16(16));
  low.v = _mm512_permutex2var_epi16(a.v, low_places, b.v);
  high.v = _mm512_permutex2var_epi16(a.v, high_places, b.v);
}
// 16 rows of 16 dwords -> 16 columns; in and out may be the same array.
inline void transpose(I rows[16]) {
  __m512i t[16], u[16];
  for (int i = 0; i < 8; i++) {
    t[2 * i] = _mm512_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
    t[2 * i + 1] = _mm512_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
  }
  for (int i = 0; i < 4; i++) {
    u[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
    u[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
    u[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
    u[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
  }
  for (int i = 0; i < 4; i++) {
    __m512i a = _mm512_shuffle_i32x4(u[i], u[i + 4], 0x88), b = _mm512_shuffle_i32x4(u[i], u[i + 4], 0xdd);
    __m512i c = _mm512_shuffle_i32x4(u[i + 8], u[i + 12], 0x88), d = _mm512_shuffle_i32x4(u[i + 8], u[i + 12], 0xdd);
    rows[i] = _mm512_shuffle_i32x4(a, c, 0x88);
    rows[i + 8] = _mm512_shuffle_i32x4(a, c, 0xdd);
    rows[i + 4] = _mm512_shuffle_i32x4(b, d, 0x88);
    rows[i + 12] = _mm512_shuffle_i32x4(b, d, 0xdd);
  }
}

// Four bytes a lane: acc + sum of 4 products, exact. Weights as kUnsignedBytes says, activations signed.
inline I dot4(I acc, I weights, I activations) { return {_mm512_dpbusd_epi32(acc, weights, activations)}; }
inline I set_bytes(const void *p) {  // the same 4 bytes in every lane
  int32_t four;
  std::memcpy(&four, p, 4);
  return {_mm512_set1_epi32(four)};
}

// The same for weights that are small (what decode_fp4_low and _high give): acc + at most four steps between
// small_start and small_end, which lets an instruction set sum in 16 bits.
inline I small_start(I acc) { return acc; }
inline I small_dot4(I part, I weights, I activations) { return dot4(part, weights, activations); }
inline I small_end(I, I part) { return part; }

// 16 E8M0 bytes as powers of two, 2^(byte - 127); 0 is 2^-127, 255 comes out infinite.
inline F load_powers(const uint8_t *p) {
  __m512i exponents = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p)));
  return {_mm512_castsi512_ps(_mm512_max_epi32(_mm512_slli_epi32(exponents, 23), _mm512_set1_epi32(0x00400000)))};
}
// 4 E8M0 bytes, each in four neighbouring lanes.
inline F spread_powers(const uint8_t *p) {
  int32_t four;
  std::memcpy(&four, p, 4);
  // Byte i to the top of every lane of the i-th quarter; a logical shift then makes it an exponent.
  alignas(64) static constexpr uint32_t kPlaces[16] = {
      0x00808080, 0x00808080, 0x00808080, 0x00808080, 0x01808080, 0x01808080, 0x01808080, 0x01808080,
      0x02808080, 0x02808080, 0x02808080, 0x02808080, 0x03808080, 0x03808080, 0x03808080, 0x03808080};
  __m512i tops = _mm512_shuffle_epi8(_mm512_set1_epi32(four), _mm512_load_si512(kPlaces));
  return {_mm512_castsi512_ps(_mm512_max_epi32(_mm512_srli_epi32(tops, 1), _mm512_set1_epi32(0x00400000)))};
}

// E2M1 in the low or the high half of each of 64 bytes -> bytes for small_dot4.
inline I decode_fp4_low(I packed) {
  // The permute looks at six bits of its index, so the table is there four times.
  const __m512i doubled =
      _mm512_broadcast_i32x4(_mm_setr_epi8(12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0));
  return {_mm512_permutexvar_epi8(packed, doubled)};
}
inline I decode_fp4_high(I packed) { return decode_fp4_low({_mm512_srli_epi16(packed, 4)}); }
// The N-th of four E2M1 in each of 32 words, exactly in bf16.
template <int N>
inline P decode_fp4_pairs(I packed) {
  alignas(64) static constexpr uint16_t kValues[32] = {0x0000, 0x3f00, 0x3f80, 0x3fc0, 0x4000, 0x4040, 0x4080, 0x40c0,
                                                       0x8000, 0xbf00, 0xbf80, 0xbfc0, 0xc000, 0xc040, 0xc080, 0xc0c0,
                                                       0x0000, 0x3f00, 0x3f80, 0x3fc0, 0x4000, 0x4040, 0x4080, 0x40c0,
                                                       0x8000, 0xbf00, 0xbf80, 0xbfc0, 0xc000, 0xc040, 0xc080, 0xc0c0};
  return {_mm512_permutexvar_epi16(_mm512_srli_epi16(packed, 4 * N), _mm512_load_si512(kValues))};
}

// Pairs of weights decoded from E4M3, in whatever form dot2 takes them fastest.
struct W {
  __m512i v;
};
inline F dot2(F acc, W a, P b) { return {_mm512_dpbf16_ps(acc.v, (__m512bh)a.v, (__m512bh)b.v)}; }
// 64 E4M3 bytes: of each 16 the first 8 as four pairs, and the second 8. Codes that are no numbers must not occur.
inline void decode_e4m3(I bytes, W &first, W &second) {
  struct Table {
    alignas(64) uint8_t high[128], low[128];
    constexpr Table() : high(), low() {
      for (int code = 0; code < 128; code++) {
        int exponent = (code >> 3) + 120, mantissa = code & 7;
        if (code < 8) {  // subnormal: shift the leading one out
          exponent = mantissa ? 121 : 0;
          while (mantissa && mantissa < 8) {
            mantissa *= 2;
            exponent--;
          }
          mantissa &= 7;
        }
        const int bf16 = exponent << 7 | mantissa << 4;
        high[code] = static_cast<uint8_t>(bf16 >> 8);
        low[code] = static_cast<uint8_t>(bf16 & 255);
      }
    }
  };
  static constexpr Table kTable;
  const __m512i high =
      _mm512_permutex2var_epi8(_mm512_load_si512(kTable.high), bytes, _mm512_load_si512(kTable.high + 64));
  const __m512i low =
      _mm512_permutex2var_epi8(_mm512_load_si512(kTable.low), bytes, _mm512_load_si512(kTable.low + 64));
  // high | (bytes & sign)
  const __m512i with_sign = _mm512_ternarylogic_epi32(high, bytes, _mm512_set1_epi8(-128), 0xf8);
  first.v = _mm512_unpacklo_epi8(low, with_sign);
  second.v = _mm512_unpackhi_epi8(low, with_sign);
}
// 64 bytes so ordered that decode_e4m3 gives the first 32 and the second 32 of them.
inline I order_for_pairs(I bytes) {
  return {_mm512_permutexvar_epi64(_mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7), bytes)};
}

}  // namespace avx512
}  // namespace deepserve
