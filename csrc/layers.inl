// Everything of the kernel table but matrix products. Included by each instruction set's file inside its namespace,
// after its simd header; every name has internal linkage, so that no two instruction sets' code is ever merged.

constexpr float kInfinity = __builtin_huge_valf();
constexpr float kLaneNumbers[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

static inline F load_first(const float *p, int n) { return n >= 16 ? load(p) : load_some(p, n); }
static inline void store_first(float *p, F a, int n) {
  if (n >= 16) {
    store(p, a);
  } else {
    store_some(p, a, n);
  }
}

// exp(x), within 2 ulp; exactly 0 below -87.3, and for arguments above 88.3 the value there.
// Polynomial: S. Moshier's Cephes library.
static inline F exponential(F x) {
  const F lowest = set(-87.3f);
  F c = min(max(x, lowest), set(88.3f));
  I n = round_to_int(mul(c, set(1.44269504f)));
  F k = to_float(n);
  F r = fma(k, set(-0.693359375f), c);
  r = fma(k, set(2.12194440e-4f), r);
  F p = set(1.9875691500e-4f);
  p = fma(p, r, set(1.3981999507e-3f));
  p = fma(p, r, set(8.3334519073e-3f));
  p = fma(p, r, set(4.1665795894e-2f));
  p = fma(p, r, set(1.6666665459e-1f));
  p = fma(p, r, set(5.0000001201e-1f));
  p = add(fma(p, mul(r, r), r), set(1.0f));
  F power = as_float(shift_left<23>(add_int(n, set_int(127))));
  return select(less(x, lowest), zero(), mul(p, power));
}

// log(x) for normal positive x. Polynomial: fdlibm.
static inline F logarithm(F x) {
  I u = as_int(x);
  I e = shift_right<23>(sub_int(u, set_int(0x3f3504f3)));
  F k = to_float(e);
  F f = sub(as_float(sub_int(u, shift_left<23>(e))), set(1.0f));
  F s = div(f, add(f, set(2.0f)));
  F z = mul(s, s), w = mul(z, z);
  F odd = mul(z, fma(w, set(0.28498786688f), set(0.66666662693f)));
  F even = mul(w, fma(w, set(0.24279078841f), set(0.40000972152f)));
  F half_square = mul(set(0.5f), mul(f, f));
  F tail = fma(s, add(half_square, add(odd, even)), mul(k, set(9.0580006145e-6f)));
  return fma(k, set(6.9313812256e-1f), add(f, sub(tail, half_square)));
}

static inline F sigmoid(F x) { return div(set(1.0f), add(set(1.0f), exponential(sub(zero(), x)))); }

static inline float sum_of_squares(const float *x, int width) {
  F a = zero(), b = zero(), c = zero(), d = zero();
  int i = 0;
  for (; i + 64 <= width; i += 64) {
    F p = load(x + i), q = load(x + i + 16), r = load(x + i + 32), s = load(x + i + 48);
    a = fma(p, p, a);
    b = fma(q, q, b);
    c = fma(r, r, c);
    d = fma(s, s, d);
  }
  for (; i < width; i += 16) {
    F p = load_first(x + i, width - i);
    a = fma(p, p, a);
  }
  return sum(add(add(a, b), add(c, d)));
}

static float inverse_rms(const float *x, int width, float eps) {
  return 1.0f / __builtin_sqrtf(sum_of_squares(x, width) / static_cast<float>(width) + eps);
}

static void rms_norm(const float *x, const float *weight, int width, float eps, float *out) {
  const F factor = set(inverse_rms(x, width, eps));
  for (int i = 0; i < width; i += 16) {
    F y = mul(load_first(x + i, width - i), factor);
    if (weight) y = mul(y, load_first(weight + i, width - i));
    store_first(out + i, y, width - i);
  }
}

static void rotate(float *x, const float *cos, const float *sin, int rope_dim) {
  for (int i = 0; i < rope_dim; i += 16) {
    const int left = rope_dim - i;
    F a = load_first(x + i, left);
    F turned = fma(a, load_first(cos + i, left), mul(swap_pairs(a), load_first(sin + i, left)));
    store_first(x + i, turned, left);
  }
}

static void swiglu(const float *gate, const float *up, int width, float limit, float *out) {
  const F high = set(limit), low = set(-limit);
  for (int i = 0; i < width; i += 16) {
    const int left = width - i;
    F g = min(load_first(gate + i, left), high);
    F u = max(min(load_first(up + i, left), high), low);
    store_first(out + i, mul(mul(g, sigmoid(g)), u), left);
  }
}

static void add_scaled(float *out, const float *x, float weight, int width) {
  const F w = set(weight);
  for (int i = 0; i < width; i += 16) {
    const int left = width - i;
    store_first(out + i, fma(w, load_first(x + i, left), load_first(out + i, left)), left);
  }
}

static void router_scores(const float *x, int count, float *out) {
  for (int i = 0; i < count; i += 16) {
    F a = load_first(x + i, count - i);
    F e = exponential(min(a, set(20.0f)));
    // log(1 + e) with the rounding of 1 + e taken back (Kahan); above 20 softplus is the identity.
    F u = add(set(1.0f), e), lost = sub(u, set(1.0f));
    F log1p = select(less(zero(), lost), mul(logarithm(u), div(e, max(lost, set(1e-30f)))), e);
    store_first(out + i, sqrt(select(less(set(20.0f), a), a, log1p)), count - i);
  }
}

// Dots

template <int kRows, int kOutputs>
static inline void dot_tile(const float *w, size_t w_stride, const float *x, size_t x_stride, int inputs, float *out,
                            size_t out_stride) {
  F acc[kRows][kOutputs];
  for (int r = 0; r < kRows; r++)
    for (int o = 0; o < kOutputs; o++) acc[r][o] = zero();
  const int whole = inputs & ~15;
  for (int i = 0; i < whole; i += 16) {
    F v[kRows];
    for (int r = 0; r < kRows; r++) v[r] = load(x + r * x_stride + i);
    for (int o = 0; o < kOutputs; o++) {
      F weight = load(w + o * w_stride + i);
      for (int r = 0; r < kRows; r++) acc[r][o] = fma(weight, v[r], acc[r][o]);
    }
  }
  if (whole < inputs) {
    const int left = inputs - whole;
    for (int o = 0; o < kOutputs; o++) {
      F weight = load_some(w + o * w_stride + whole, left);
      for (int r = 0; r < kRows; r++) acc[r][o] = fma(weight, load_some(x + r * x_stride + whole, left), acc[r][o]);
    }
  }
  for (int r = 0; r < kRows; r++)
    for (int o = 0; o < kOutputs; o++) out[r * out_stride + o] = sum(acc[r][o]);
}

template <int kRows>
static void dot_rows(const float *w, size_t w_stride, int outputs, const float *x, size_t x_stride, int inputs,
                     float *out, size_t out_stride) {
  int o = 0;
  for (; o + kHeadTile <= outputs; o += kHeadTile)
    dot_tile<kRows, kHeadTile>(w + o * w_stride, w_stride, x, x_stride, inputs, out + o, out_stride);
  for (; o < outputs; o++) dot_tile<kRows, 1>(w + o * w_stride, w_stride, x, x_stride, inputs, out + o, out_stride);
}

static void dots(const float *w, size_t w_stride, int outputs, const float *x, size_t x_stride, int rows, int inputs,
                 float *out, size_t out_stride) {
  int r = 0;
  for (; r + 2 <= rows; r += 2)
    dot_rows<2>(w, w_stride, outputs, x + r * x_stride, x_stride, inputs, out + r * out_stride, out_stride);
  if (r < rows) dot_rows<1>(w, w_stride, outputs, x + r * x_stride, x_stride, inputs, out + r * out_stride, out_stride);
}

// Hyper-connections

constexpr int kMaxStreams = 8;

// Sixteen rows at a time, one in each lane: what a row gets does not depend on how many there are.
template <int kFixedStreams>
static void mix_16(const float *scores, size_t stride, const float *inverse, int rows, const float *base,
                   const float *scale, int streams, int steps, float eps, float *mix) {
  const int size = kFixedStreams ? kFixedStreams : streams;
  const int count = (2 + size) * size;
  alignas(64) float lanes[(2 + kMaxStreams) * kMaxStreams][16];
  alignas(64) float factors[16] = {};
  for (int r = 0; r < rows; r++) factors[r] = inverse[r];
  for (int i = 0; i < count; i++)
    for (int r = 0; r < 16; r++) lanes[i][r] = r < rows ? scores[r * stride + i] : 0.0f;
  const F factor = load(factors), floor = set(eps), one = set(1.0f);
  for (int i = 0; i < count; i++) store(lanes[i], fma(mul(load(lanes[i]), factor), set(scale[i]), set(base[i])));
  for (int s = 0; s < size; s++) {
    store(lanes[s], add(sigmoid(load(lanes[s])), floor));
    store(lanes[size + s], mul(set(2.0f), sigmoid(load(lanes[size + s]))));
  }
  F c[kFixedStreams ? kFixedStreams * kFixedStreams : kMaxStreams * kMaxStreams];
  for (int j = 0; j < size; j++) {
    F *row = c + j * size;
    const float (*from)[16] = lanes + (2 + j) * size;
    F top = load(from[0]);
    for (int k = 1; k < size; k++) top = max(top, load(from[k]));
    F total = zero();
    for (int k = 0; k < size; k++) {
      row[k] = exponential(sub(load(from[k]), top));
      total = add(total, row[k]);
    }
    const F share = div(one, total);
    for (int k = 0; k < size; k++) row[k] = fma(row[k], share, floor);
  }
  for (int step = 0; step < steps; step++) {
    if (step > 0) {
      for (int j = 0; j < size; j++) {
        F total = floor;
        for (int k = 0; k < size; k++) total = add(total, c[j * size + k]);
        const F share = div(one, total);
        for (int k = 0; k < size; k++) c[j * size + k] = mul(c[j * size + k], share);
      }
    }
    for (int k = 0; k < size; k++) {
      F total = floor;
      for (int j = 0; j < size; j++) total = add(total, c[j * size + k]);
      const F share = div(one, total);
      for (int j = 0; j < size; j++) c[j * size + k] = mul(c[j * size + k], share);
    }
  }
  for (int i = 0; i < size * size; i++) store(lanes[2 * size + i], c[i]);
  for (int r = 0; r < rows; r++)
    for (int i = 0; i < count; i++) mix[r * count + i] = lanes[i][r];
}

static void hyper_mix(const float *scores, size_t stride, const float *inverse, int rows, const float *base,
                      const float *scale, int streams, int steps, float eps, float *mix) {
  const int count = (2 + streams) * streams;
  for (int r = 0; r < rows; r += 16) {
    const int some = rows - r < 16 ? rows - r : 16;
    (streams == 4 ? mix_16<4> : mix_16<0>)(scores + r * stride, stride, inverse + r, some, base, scale, streams, steps,
                                           eps, mix + static_cast<size_t>(r) * count);
  }
}

static void collapse(const float *streams, const float *read, int num_streams, int width, float *out) {
  for (int i = 0; i < width; i += 16) {
    const int left = width - i;
    F y = mul(set(read[0]), load_first(streams + i, left));
    for (int s = 1; s < num_streams; s++)
      y = fma(set(read[s]), load_first(streams + static_cast<size_t>(s) * width + i, left), y);
    store_first(out + i, y, left);
  }
}

static void expand(float *streams, const float *y, const float *write, const float *carry, int num_streams, int width) {
  F weights[kMaxStreams][kMaxStreams + 1];
  for (int k = 0; k < num_streams; k++) {
    weights[k][num_streams] = set(write[k]);
    for (int j = 0; j < num_streams; j++) weights[k][j] = set(carry[j * num_streams + k]);
  }
  for (int i = 0; i < width; i += 16) {
    const int left = width - i;
    F old[kMaxStreams];
    for (int j = 0; j < num_streams; j++) old[j] = load_first(streams + static_cast<size_t>(j) * width + i, left);
    const F output = load_first(y + i, left);
    for (int k = 0; k < num_streams; k++) {
      F x = mul(weights[k][num_streams], output);
      for (int j = 0; j < num_streams; j++) x = fma(weights[k][j], old[j], x);
      store_first(streams + static_cast<size_t>(k) * width + i, x, left);
    }
  }
}

// Compressed entries

static void pool(const float *const *contents, const float *const *gates, int slots, int width, float *out) {
  for (int i = 0; i < width; i += 16) {
    const int left = width - i;
    F top = load_first(gates[0] + i, left);
    for (int s = 1; s < slots; s++) top = max(top, load_first(gates[s] + i, left));
    F total = zero(), mixed = zero();
    for (int s = 0; s < slots; s++) {
      F weight = exponential(sub(load_first(gates[s] + i, left), top));
      total = add(total, weight);
      mixed = fma(weight, load_first(contents[s] + i, left), mixed);
    }
    store_first(out + i, div(mixed, total), left);
  }
}

// Attention

constexpr int kValueRows = 512;                      // rows whose values are summed before the next heads' turn
constexpr int kValueHeads = kHeadTile >= 8 ? 8 : 2;  // heads per tile of two vectors
static inline size_t round_up(size_t x, size_t to) { return (x + to - 1) / to * to; }

template <bool kBf16>
struct State;

template <>
struct State<false> {
  using Element = float;
  static constexpr int kPerDword = 1;
  static inline F multiply(F acc, const float *tile, const float *query) { return fma(load(tile), set(*query), acc); }
};

template <>
struct State<true> {
  using Element = uint16_t;
  static constexpr int kPerDword = 2;
  static inline F multiply(F acc, const float *tile, const uint16_t *query) {
    return dot2(acc, load_pairs(reinterpret_cast<const uint16_t *>(tile)), set_pair(query));
  }
};

static void narrow(const float *x, size_t count, uint16_t *out) {
  for (size_t i = 0; i < count; i += 16) store_bf16(out + i, load(x + i));
}
static void narrow(const float *x, size_t count, float *out) { __builtin_memcpy(out, x, count * sizeof(float)); }

// Scores of 16 rows, laid out by lanes in `tile`, for some heads.
template <bool kBf16, int kHeads>
static inline void score_heads(const typename State<kBf16>::Element *queries, size_t stride, const float *tile,
                               float *scores, size_t score_stride) {
  constexpr int kPerDword = State<kBf16>::kPerDword;
  F acc[kHeads];
  for (int h = 0; h < kHeads; h++) acc[h] = zero();
  const int dwords = static_cast<int>(stride) / kPerDword;
  for (int i = 0; i < dwords; i++)
    for (int h = 0; h < kHeads; h++)
      acc[h] = State<kBf16>::multiply(acc[h], tile + 16 * i, queries + h * stride + i * kPerDword);
  for (int h = 0; h < kHeads; h++) store(scores + h * score_stride, acc[h]);
}

// Weighted sums of 32 elements of the rows [first, end), added to `out`, for some heads.
template <int kHeads>
static inline void add_values(const float *weights, size_t weight_stride, const void *const *rows, int first, int end,
                              size_t element, float *out, size_t stride) {
  F acc[kHeads][2];
  for (int h = 0; h < kHeads; h++) {
    acc[h][0] = load(out + h * stride);
    acc[h][1] = load(out + h * stride + 16);
  }
  for (int s = first; s < end; s++) {
    const float *row = static_cast<const float *>(rows[s]) + element;
    const F low = load(row), high = load(row + 16);
    for (int h = 0; h < kHeads; h++) {
      const F weight = set(weights[h * weight_stride + s]);
      acc[h][0] = fma(low, weight, acc[h][0]);
      acc[h][1] = fma(high, weight, acc[h][1]);
    }
  }
  for (int h = 0; h < kHeads; h++) {
    store(out + h * stride, acc[h][0]);
    store(out + h * stride + 16, acc[h][1]);
  }
}

template <int kHeads>
static inline void add_values(const uint16_t *weights, size_t weight_stride, const void *const *rows, int first,
                              int end, size_t element, float *out, size_t stride) {
  F acc[kHeads][2];
  for (int h = 0; h < kHeads; h++) {
    acc[h][0] = load(out + h * stride);
    acc[h][1] = load(out + h * stride + 16);
  }
  for (int s = first; s < end; s += 2) {
    // The row beside an odd last one has weight 0, so any row will do.
    P low, high;
    interleave(load_pairs(static_cast<const uint16_t *>(rows[s]) + element),
               load_pairs(static_cast<const uint16_t *>(rows[s + 1 < end ? s + 1 : s]) + element), low, high);
    for (int h = 0; h < kHeads; h++) {
      const P weight = set_pair(weights + h * weight_stride + s);
      acc[h][0] = dot2(acc[h][0], low, weight);
      acc[h][1] = dot2(acc[h][1], high, weight);
    }
  }
  for (int h = 0; h < kHeads; h++) {
    store(out + h * stride, acc[h][0]);
    store(out + h * stride + 16, acc[h][1]);
  }
}

template <bool kBf16>
static void attend(const float *queries, int heads, size_t stride, const void *const *rows, int num_rows,
                   const float *sinks, float *scratch, float *out) {
  using Element = typename State<kBf16>::Element;
  constexpr int kPerDword = State<kBf16>::kPerDword;
  const size_t padded = round_up(num_rows, 16);
  const int dwords = static_cast<int>(stride) / kPerDword;
  float *scores = scratch;
  float *tile = scores + heads * padded;
  Element *narrow_queries = reinterpret_cast<Element *>(tile + 16 * stride);
  Element *weights = reinterpret_cast<Element *>(tile + 16 * stride + heads * stride);
  float *shares = tile + 16 * stride + heads * (stride + padded);
  narrow(queries, heads * stride, narrow_queries);

  for (int first = 0; first < num_rows; first += 16) {
    for (int i = 0; i < dwords; i += 16) {
      I columns[16];
      for (int s = 0; s < 16; s++) {
        const int row = first + s < num_rows ? first + s : num_rows - 1;
        columns[s] = load_int(static_cast<const float *>(rows[row]) + i);
      }
      transpose(columns);
      for (int s = 0; s < 16; s++) store_int(tile + 16 * (i + s), columns[s]);
    }
    int h = 0;
    for (; h + kHeadTile <= heads; h += kHeadTile)
      score_heads<kBf16, kHeadTile>(narrow_queries + h * stride, stride, tile, scores + h * padded + first, padded);
    for (; h + 4 <= heads; h += 4)
      score_heads<kBf16, 4>(narrow_queries + h * stride, stride, tile, scores + h * padded + first, padded);
    for (; h < heads; h++)
      score_heads<kBf16, 1>(narrow_queries + h * stride, stride, tile, scores + h * padded + first, padded);
  }

  for (int h = 0; h < heads; h++) {
    float *mine = scores + h * padded;
    for (size_t s = num_rows; s < padded; s++) mine[s] = -kInfinity;
    F top = set(sinks[h]);
    for (size_t s = 0; s < padded; s += 16) top = max(top, load(mine + s));
    const F best = set(highest(top));
    F total = zero();
    for (size_t s = 0; s < padded; s += 16) {
      const F weight = exponential(sub(load(mine + s), best));
      total = add(total, weight);
      store(mine + s, weight);
    }
    alignas(64) float sink[16];
    store(sink, exponential(sub(set(sinks[h]), best)));
    shares[h] = 1.0f / (sum(total) + sink[0]);
  }
  narrow(scores, heads * padded, weights);

  for (size_t i = 0; i < heads * stride; i++) out[i] = 0.0f;
  for (int first = 0; first < num_rows; first += kValueRows) {
    const int end = num_rows - first < kValueRows ? num_rows : first + kValueRows;
    for (size_t element = 0; element < stride; element += 32) {
      int h = 0;
      for (; h + kValueHeads <= heads; h += kValueHeads)
        add_values<kValueHeads>(weights + h * padded, padded, rows, first, end, element, out + h * stride + element,
                                stride);
      for (; h + 2 <= heads; h += 2)
        add_values<2>(weights + h * padded, padded, rows, first, end, element, out + h * stride + element, stride);
      for (; h < heads; h++)
        add_values<1>(weights + h * padded, padded, rows, first, end, element, out + h * stride + element, stride);
    }
  }
  for (int h = 0; h < heads; h++) {
    const F share = set(shares[h]);
    for (size_t i = 0; i < stride; i += 16) store(out + h * stride + i, mul(load(out + h * stride + i), share));
  }
}

template <bool kBf16>
static void store_state(const float *x, int width, size_t stride, void *row) {
  using Element = typename State<kBf16>::Element;
  alignas(64) float rest[16];
  for (size_t i = 0; i < stride; i += 16) {
    const int left = width - static_cast<int>(i);
    const F a = left > 0 ? load_first(x + i, left) : zero();
    store(rest, a);
    narrow(rest, 16, static_cast<Element *>(row) + i);
  }
}

// The indexer

static inline float largest_magnitude(const float *x, int width) {
  F top = zero();
  for (int i = 0; i < width; i += 16) {
    F a = load_first(x + i, width - i);
    top = max(top, max(a, sub(zero(), a)));
  }
  return highest(top);
}

// x -> int8 with one scale, padded with zeros; the scale is returned.
static inline float quantise_row(const float *x, int width, int padded, int8_t *out) {
  const float top = largest_magnitude(x, width);
  const F factor = set(top > 0.0f ? 127.0f / top : 0.0f);
  for (int i = 0; i < padded; i += 16) {
    const F a = i < width ? load_first(x + i, width - i) : zero();
    store_bytes(out + i, round_to_int(mul(a, factor)));
  }
  return top / 127.0f;
}

static void put_index_key_int8(uint8_t *group, int place, const float *key, int width) {
  const int padded = static_cast<int>(round_up(width, 32));
  const float top = largest_magnitude(key, width), scale = top / 127.0f;
  const F factor = set(top > 0.0f ? 127.0f / top : 0.0f);
  int8_t bytes[16];
  for (int i = 0; i < padded; i++) {
    if (i % 16 == 0) {
      const F some = i < width ? load_first(key + i, width - i) : zero();
      store_bytes(bytes, round_to_int(mul(some, factor)));
    }
    group[(i / 4) * 64 + place * 4 + i % 4] = static_cast<uint8_t>(bytes[i % 16] + 128);
  }
  __builtin_memcpy(group + padded * 16 + place * 4, &scale, 4);
}

static void put_index_key_f32(uint8_t *group, int place, const float *key, int width) {
  const int padded = static_cast<int>(round_up(width, 32));
  float *lanes = reinterpret_cast<float *>(group);
  for (int i = 0; i < padded; i++) lanes[i * 16 + place] = i < width ? key[i] : 0.0f;
}

static inline I as_weights(I bytes) {
  if constexpr (kUnsignedBytes) {
    return bytes;
  } else {
    return xor_int(bytes, set_int(static_cast<int32_t>(0x80808080u)));
  }
}

template <int kHeads>
static inline F score_int8(const uint8_t *group, const int8_t *queries, const int32_t *corrections,
                           const float *weights, int padded, F score) {
  I acc[kHeads];
  for (int h = 0; h < kHeads; h++) acc[h] = set_int(kUnsignedBytes ? corrections[h] : 0);
  for (int i = 0; i < padded / 4; i++) {
    const I keys = as_weights(load_int(group + 64 * i));
    for (int h = 0; h < kHeads; h++) acc[h] = dot4(acc[h], keys, set_bytes(queries + h * padded + 4 * i));
  }
  for (int h = 0; h < kHeads; h++) score = fma(max(to_float(acc[h]), zero()), set(weights[h]), score);
  return score;
}

static void score_index_int8(const uint8_t *const *groups, int num_groups, const float *queries, const float *weights,
                             int heads, int width, float *scratch, float *scores) {
  const int padded = static_cast<int>(round_up(width, 32));
  int32_t *corrections = reinterpret_cast<int32_t *>(scratch);
  float *scaled = scratch + heads;
  int8_t *bytes = reinterpret_cast<int8_t *>(scratch + 2 * heads);
  for (int h = 0; h < heads; h++) {
    scaled[h] = weights[h] * quantise_row(queries + static_cast<size_t>(h) * width, width, padded, bytes + h * padded);
    int32_t total = 0;
    for (int i = 0; i < padded; i++) total += bytes[h * padded + i];
    corrections[h] = -128 * total;
  }
  for (int g = 0; g < num_groups; g++) {
    // The groups of a layer lie a block apart, so the hardware does not see what comes next.
    if (g + 2 < num_groups)
      for (int i = 0; i < padded * 16 + 64; i += 64) __builtin_prefetch(groups[g + 2] + i);
    F score = zero();
    int h = 0;
    for (; h + kHeadTile <= heads; h += kHeadTile)
      score = score_int8<kHeadTile>(groups[g], bytes + h * padded, corrections + h, scaled + h, padded, score);
    for (; h + 4 <= heads; h += 4)
      score = score_int8<4>(groups[g], bytes + h * padded, corrections + h, scaled + h, padded, score);
    for (; h < heads; h++)
      score = score_int8<1>(groups[g], bytes + h * padded, corrections + h, scaled + h, padded, score);
    store(scores + 16 * static_cast<size_t>(g),
          mul(score, load(reinterpret_cast<const float *>(groups[g] + padded * 16))));
  }
}

template <int kHeads>
static inline F score_f32(const float *group, const float *queries, const float *weights, int width, F score) {
  F acc[kHeads];
  for (int h = 0; h < kHeads; h++) acc[h] = zero();
  for (int i = 0; i < width; i++) {
    const F keys = load(group + 16 * i);
    for (int h = 0; h < kHeads; h++) acc[h] = fma(keys, set(queries[h * width + i]), acc[h]);
  }
  for (int h = 0; h < kHeads; h++) score = fma(max(acc[h], zero()), set(weights[h]), score);
  return score;
}

static void score_index_f32(const uint8_t *const *groups, int num_groups, const float *queries, const float *weights,
                            int heads, int width, float *, float *scores) {
  for (int g = 0; g < num_groups; g++) {
    const float *group = reinterpret_cast<const float *>(groups[g]);
    F score = zero();
    int h = 0;
    for (; h + kHeadTile <= heads; h += kHeadTile)
      score = score_f32<kHeadTile>(group, queries + static_cast<size_t>(h) * width, weights + h, width, score);
    for (; h < heads; h++)
      score = score_f32<1>(group, queries + static_cast<size_t>(h) * width, weights + h, width, score);
    store(scores + 16 * static_cast<size_t>(g), score);
  }
}

// Floats as integers of the same order, and back; the integer below is the next smaller float.
static inline int32_t ordered(float x) {
  int32_t bits;
  __builtin_memcpy(&bits, &x, 4);
  return bits ^ ((bits >> 31) & 0x7fffffff);
}
static inline float from_ordered(int32_t key) {
  const int32_t bits = key ^ ((key >> 31) & 0x7fffffff);
  float x;
  __builtin_memcpy(&x, &bits, 4);
  return x;
}

// The first n of 16 scores; the others as if they were the worst there is.
static inline F load_scores(const float *scores, int n) {
  return n >= 16 ? load(scores)
                 : select(less(load(kLaneNumbers), set(static_cast<float>(n))), load_some(scores, n), set(-kInfinity));
}

// The number-th largest score, found by halving the interval it lies in: 32 passes, but no branch depends on a score.
static float nth_largest(const float *scores, int count, int number) {
  int32_t low = ordered(-kInfinity), high = ordered(kInfinity);
  while (low < high) {
    const int32_t middle = static_cast<int32_t>((int64_t{low} + high) >> 1);
    const F mark = set(from_ordered(middle));
    int num_greater = 0;
    for (int i = 0; i < count; i += 16)
      num_greater += __builtin_popcount(bits(less(mark, load_scores(scores + i, count - i))));
    if (num_greater < number) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return from_ordered(low);
}

// Of many scores only few can be among the best: at least `number` are as large as the number-th largest of any set of
// maxima over disjoint parts.
static float nth_largest_of_many(const float *scores, int count, int number, float *scratch) {
  const int vectors = count / 16, per_part = vectors / (number / 4 + 1);
  float *maxima = scratch, *candidates = scratch + 4 * number + 16;
  const int room = 2 * number + 16;
  int num_maxima = 0;
  for (int i = 0; i + per_part <= vectors && num_maxima + 16 <= 4 * number + 16; i += per_part) {
    F top = load(scores + 16 * i);
    for (int j = 1; j < per_part; j++) top = max(load(scores + 16 * (i + j)), top);
    store(maxima + num_maxima, top);
    num_maxima += 16;
  }
  if (num_maxima >= number) {
    const float least = nth_largest(maxima, num_maxima, number);
    const F below = set(from_ordered(ordered(least) - 1));
    int num_candidates = 0;
    for (int i = 0; i < count && num_candidates <= room - 16 && least > -kInfinity; i += 16) {
      const F some = load_scores(scores + i, count - i);
      for (uint32_t left = bits(less(below, some)); left; left &= left - 1)
        candidates[num_candidates++] = scores[i + __builtin_ctz(left)];
    }
    // With many ties there may be more of them than room; then all scores are looked at.
    if (num_candidates >= number && num_candidates <= room - 16) return nth_largest(candidates, num_candidates, number);
  }
  return nth_largest(scores, count, number);
}

static void select_best(const float *scores, int count, int number, float *scratch, int32_t *chosen) {
  int num_chosen = 0;
  if (count > number) {
    const float worst =
        count >= 16 * number ? nth_largest_of_many(scores, count, number, scratch) : nth_largest(scores, count, number);
    const F mark = set(worst), below = set(from_ordered(ordered(worst) - 1));
    int num_greater = 0;
    for (int i = 0; i < count; i += 16)
      num_greater += __builtin_popcount(bits(less(mark, load_scores(scores + i, count - i))));
    int num_ties = number - num_greater;
    for (int i = 0; i < count && num_chosen < number; i += 16) {
      const F some = load_scores(scores + i, count - i);
      const uint32_t greater = bits(less(mark, some));
      for (uint32_t left = bits(less(below, some)); left; left &= left - 1) {
        const bool is_greater = greater & left & (~left + 1);
        if (is_greater || num_ties-- > 0) chosen[num_chosen++] = i + __builtin_ctz(left);
      }
    }
  }
  // Everything; or what is missing because scores are no numbers, which the logits will tell.
  for (; num_chosen < number; num_chosen++) chosen[num_chosen] = num_chosen;
}

// Sampling and small things

static float largest(const float *x, int count) {
  F top = set(-kInfinity), poison = zero();
  for (int i = 0; i < count; i += 16) {
    const int left = count - i;
    const F a = load_first(x + i, left);
    poison = fma(a, zero(), poison);  // 0, or not a number if any value is not finite
    top = max(left >= 16 ? a : select(less(load(kLaneNumbers), set(static_cast<float>(left))), a, top), top);
  }
  return highest(top) + sum(poison);
}

static void sigmoids(float *x, int count) {
  for (int i = 0; i < count; i += 16) store_first(x + i, sigmoid(load_first(x + i, count - i)), count - i);
}

static inline double exponential_of(double x) {
  constexpr double kMagic = 6755399441055744.0;  // 1.5 * 2^52: adding it leaves the rounded integer in the low bits
  const double a = x < -700.0 ? -700.0 : x;
  const double shifted = __builtin_fma(a, 1.4426950408889634, kMagic);
  const double n = shifted - kMagic;
  double r = __builtin_fma(n, -6.93147180369123816490e-01, a);
  r = __builtin_fma(n, -1.90821492927058770002e-10, r);
  double p = 1.0 / 6227020800.0;
  p = __builtin_fma(p, r, 1.0 / 479001600.0);
  p = __builtin_fma(p, r, 1.0 / 39916800.0);
  p = __builtin_fma(p, r, 1.0 / 3628800.0);
  p = __builtin_fma(p, r, 1.0 / 362880.0);
  p = __builtin_fma(p, r, 1.0 / 40320.0);
  p = __builtin_fma(p, r, 1.0 / 5040.0);
  p = __builtin_fma(p, r, 1.0 / 720.0);
  p = __builtin_fma(p, r, 1.0 / 120.0);
  p = __builtin_fma(p, r, 1.0 / 24.0);
  p = __builtin_fma(p, r, 1.0 / 6.0);
  p = __builtin_fma(p, r, 0.5);
  p = __builtin_fma(p, r, 1.0);
  p = __builtin_fma(p, r, 1.0);
  uint64_t bits, shift;
  __builtin_memcpy(&bits, &p, 8);
  __builtin_memcpy(&shift, &shifted, 8);
  bits += shift << 52;
  double y;
  __builtin_memcpy(&y, &bits, 8);
  return x < -700.0 ? 0.0 : y;
}

static void weigh(const double *scores, int count, double best, double temperature, double per_bucket, int last_bucket,
                  double *weights, int32_t *buckets) {
  const double last = last_bucket;
  for (int i = 0; i < count; i++) {
    const double behind = (best - scores[i]) * per_bucket;
    buckets[i] = static_cast<int32_t>(behind < last ? behind : last);
    weights[i] = exponential_of((scores[i] - best) / temperature);
  }
}

static void exponentials(double *x, int count) {
  for (int i = 0; i < count; i++) x[i] = exponential_of(x[i]);
}
