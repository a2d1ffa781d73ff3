/* The small operations of a training step, each in one pass over memory; `kernels.py` gives them to autograd.
 *
 * Everything is contiguous, and float32 unless said otherwise. Compiled for the machine at hand; loops over LANES
 * tokens or over a vector's width are what the compiler turns into vector instructions.
 *
 * Legend: N tokens, S = 4 streams, d hidden width, M rows, W width of a row.
 */
#include <stdint.h>
#include <string.h>

#define STREAMS 4
#define PLACES (STREAMS * STREAMS)
#define MIXES (2 * STREAMS + PLACES)
#define LANES 16
#define MAX_STEPS 64

/* e^x by 2^n times a polynomial, relative error below 1e-6; the C library's is not vectorised everywhere. */
static inline float power(float x) {
    x = x < -87.0f ? -87.0f : x;
    x = x > 88.0f ? 88.0f : x;
    float scaled = x * 1.44269504f;
    float whole = __builtin_floorf(scaled + 0.5f);
    float part = x - whole * 0.693359375f + whole * 2.12194440e-4f;
    float y = 1.9875691500e-4f;
    y = y * part + 1.3981999507e-3f;
    y = y * part + 8.3334519073e-3f;
    y = y * part + 4.1665795894e-2f;
    y = y * part + 1.6666665459e-1f;
    y = y * part + 5.0000001201e-1f;
    y = y * part * part + part + 1.0f;
    int32_t bits = ((int32_t)whole + 127) << 23;
    float two;
    memcpy(&two, &bits, sizeof two);
    return y * two;
}

static inline float sigmoid(float x) { return 1.0f / (1.0f + power(-x)); }

/* Sums of the rows (is_column 0) or columns of the matrices of LANES tokens. */
static inline void line_sums(float m[PLACES][LANES], float sums[STREAMS][LANES], int is_column, float floor) {
    for (int line = 0; line < STREAMS; line++)
        for (int t = 0; t < LANES; t++) {
            float sum = floor;
            for (int k = 0; k < STREAMS; k++)
                sum += m[is_column ? k * STREAMS + line : line * STREAMS + k][t];
            sums[line][t] = sum;
        }
}

static inline int line_of(int place, int is_column) { return is_column ? place % STREAMS : place / STREAMS; }

/* Row softmax of the carry scores, plus eps: where Sinkhorn starts. */
static inline void start(float m[PLACES][LANES], float eps) {
    for (int row = 0; row < STREAMS; row++)
        for (int t = 0; t < LANES; t++) {
            float top = m[row * STREAMS][t], sum = 0;
            for (int k = 1; k < STREAMS; k++) {
                float x = m[row * STREAMS + k][t];
                top = x > top ? x : top;
            }
            for (int k = 0; k < STREAMS; k++) sum += m[row * STREAMS + k][t] = power(m[row * STREAMS + k][t] - top);
            for (int k = 0; k < STREAMS; k++) m[row * STREAMS + k][t] = m[row * STREAMS + k][t] / sum + eps;
        }
}

/* mixes [N, MIXES] scores in, read and write weights and carry matrices out. */
void mix_forward(const float *scores, float *mixes, int64_t n, int64_t steps, float eps) {
    for (int64_t first = 0; first < n; first += LANES) {
        int count = n - first < LANES ? (int)(n - first) : LANES;
        float all[MIXES][LANES] = {{0}}, sums[STREAMS][LANES];
        float(*m)[LANES] = all + 2 * STREAMS;
        for (int t = 0; t < count; t++)
            for (int i = 0; i < MIXES; i++) all[i][t] = scores[(first + t) * MIXES + i];
        for (int i = 0; i < 2 * STREAMS; i++)
            for (int t = 0; t < LANES; t++) {
                float gate = sigmoid(all[i][t]);
                all[i][t] = i < STREAMS ? gate + eps : 2 * gate;
            }
        start(m, eps);
        for (int64_t step = 0; step < steps; step++) {
            int is_column = step % 2 == 0;
            line_sums(m, sums, is_column, eps);
            for (int line = 0; line < STREAMS; line++)
                for (int t = 0; t < LANES; t++) sums[line][t] = 1.0f / sums[line][t];
            for (int i = 0; i < PLACES; i++)
                for (int t = 0; t < LANES; t++) m[i][t] *= sums[line_of(i, is_column)][t];
        }
        for (int t = 0; t < count; t++)
            for (int i = 0; i < MIXES; i++) mixes[(first + t) * MIXES + i] = all[i][t];
    }
}

/* grads [N, MIXES] of the mixes in, of the scores out. Sinkhorn is run again and walked back. */
void mix_backward(const float *scores, float *grads, int64_t n, int64_t steps, float eps) {
    for (int64_t first = 0; first < n; first += LANES) {
        int count = n - first < LANES ? (int)(n - first) : LANES;
        float all[MIXES][LANES] = {{0}}, grad[MIXES][LANES] = {{0}}, softened[PLACES][LANES];
        float tape[MAX_STEPS][PLACES][LANES], inverses[MAX_STEPS][STREAMS][LANES];
        float(*m)[LANES] = all + 2 * STREAMS, (*g)[LANES] = grad + 2 * STREAMS;
        for (int t = 0; t < count; t++)
            for (int i = 0; i < MIXES; i++) {
                all[i][t] = scores[(first + t) * MIXES + i];
                grad[i][t] = grads[(first + t) * MIXES + i];
            }
        for (int i = 0; i < 2 * STREAMS; i++)
            for (int t = 0; t < LANES; t++) {
                float gate = sigmoid(all[i][t]);
                grad[i][t] *= gate * (1 - gate) * (i < STREAMS ? 1 : 2);
            }
        start(m, eps);
        for (int i = 0; i < PLACES; i++)
            for (int t = 0; t < LANES; t++) softened[i][t] = m[i][t] - eps;
        for (int64_t step = 0; step < steps; step++) {
            int is_column = step % 2 == 0;
            line_sums(m, inverses[step], is_column, eps);
            for (int line = 0; line < STREAMS; line++)
                for (int t = 0; t < LANES; t++) inverses[step][line][t] = 1.0f / inverses[step][line][t];
            for (int i = 0; i < PLACES; i++)
                for (int t = 0; t < LANES; t++)
                    tape[step][i][t] = m[i][t] *= inverses[step][line_of(i, is_column)][t];
        }
        for (int64_t step = steps - 1; step >= 0; step--) {
            int is_column = step % 2 == 0;
            float product[PLACES][LANES], sums[STREAMS][LANES];
            for (int i = 0; i < PLACES; i++)
                for (int t = 0; t < LANES; t++) product[i][t] = g[i][t] * tape[step][i][t];
            line_sums(product, sums, is_column, 0);
            for (int i = 0; i < PLACES; i++) {
                int line = line_of(i, is_column);
                for (int t = 0; t < LANES; t++) g[i][t] = (g[i][t] - sums[line][t]) * inverses[step][line][t];
            }
        }
        for (int row = 0; row < STREAMS; row++)
            for (int t = 0; t < LANES; t++) {
                float sum = 0;
                for (int k = row * STREAMS; k < (row + 1) * STREAMS; k++) sum += g[k][t] * softened[k][t];
                for (int k = row * STREAMS; k < (row + 1) * STREAMS; k++) g[k][t] = softened[k][t] * (g[k][t] - sum);
            }
        for (int t = 0; t < count; t++)
            for (int i = 0; i < MIXES; i++) grads[(first + t) * MIXES + i] = grad[i][t];
    }
}

/* rows [M, W] -> inverse root mean squares [M] */
void inverse_rms(const float *rows, float *inverses, int64_t m, int64_t w, float eps) {
    for (int64_t i = 0; i < m; i++) {
        float sum = 0;
        for (int64_t k = 0; k < w; k++) sum += rows[i * w + k] * rows[i * w + k];
        inverses[i] = 1.0f / __builtin_sqrtf(sum / w + eps);
    }
}

/* Weighted sum of each token's streams: streams [N, S, d], mixes [N, MIXES] -> out [N, d] */
void collapse_forward(const float *streams, const float *mixes, float *out, int64_t n, int64_t d) {
    for (int64_t i = 0; i < n; i++) {
        const float *h = streams + i * STREAMS * d, *read = mixes + i * MIXES;
        float *o = out + i * d;
        for (int64_t k = 0; k < d; k++)
            o[k] = read[0] * h[k] + read[1] * h[d + k] + read[2] * h[2 * d + k] + read[3] * h[3 * d + k];
    }
}

/* grads_streams is written, the first STREAMS of each row of grad_mixes too. */
void collapse_backward(const float *streams, const float *mixes, const float *grad_out, float *grad_streams,
                       float *grad_mixes, int64_t n, int64_t d) {
    for (int64_t i = 0; i < n; i++)
        for (int j = 0; j < STREAMS; j++) {
            const float *h = streams + (i * STREAMS + j) * d, *g = grad_out + i * d;
            float *gh = grad_streams + (i * STREAMS + j) * d, weight = mixes[i * MIXES + j], sum = 0;
            for (int64_t k = 0; k < d; k++) {
                sum += g[k] * h[k];
                gh[k] = weight * g[k];
            }
            grad_mixes[i * MIXES + j] = sum;
        }
}

/* New streams: stream k gets write[k] of out and carry[j, k] of every old stream j. */
void expand_forward(const float *streams, const float *out, const float *mixes, float *made, int64_t n, int64_t d) {
    for (int64_t i = 0; i < n; i++) {
        const float *h = streams + i * STREAMS * d, *o = out + i * d;
        const float *write = mixes + i * MIXES + STREAMS, *carry = write + STREAMS;
        for (int j = 0; j < STREAMS; j++) {
            float *x = made + (i * STREAMS + j) * d;
            float a = carry[j], b = carry[STREAMS + j], c = carry[2 * STREAMS + j], e = carry[3 * STREAMS + j];
            float w = write[j];
            for (int64_t k = 0; k < d; k++)
                x[k] = w * o[k] + a * h[k] + b * h[d + k] + c * h[2 * d + k] + e * h[3 * d + k];
        }
    }
}

void expand_backward(const float *streams, const float *out, const float *mixes, const float *grad_made,
                     float *grad_streams, float *grad_out, float *grad_mixes, int64_t n, int64_t d) {
    for (int64_t i = 0; i < n; i++) {
        const float *h = streams + i * STREAMS * d, *o = out + i * d, *g = grad_made + i * STREAMS * d;
        const float *write = mixes + i * MIXES + STREAMS, *carry = write + STREAMS;
        float *gm = grad_mixes + i * MIXES, *go = grad_out + i * d;
        for (int j = 0; j < STREAMS; j++) gm[j] = 0;
        gm += STREAMS;
        for (int64_t k = 0; k < d; k++)
            go[k] = write[0] * g[k] + write[1] * g[d + k] + write[2] * g[2 * d + k] + write[3] * g[3 * d + k];
        for (int j = 0; j < STREAMS; j++) {
            float *gh = grad_streams + (i * STREAMS + j) * d;
            const float *hj = h + j * d, *c = carry + j * STREAMS;
            for (int64_t k = 0; k < d; k++)
                gh[k] = c[0] * g[k] + c[1] * g[d + k] + c[2] * g[2 * d + k] + c[3] * g[3 * d + k];
            float s0 = 0, s1 = 0, s2 = 0, s3 = 0, sw = 0;
            for (int64_t k = 0; k < d; k++) {
                s0 += hj[k] * g[k];
                s1 += hj[k] * g[d + k];
                s2 += hj[k] * g[2 * d + k];
                s3 += hj[k] * g[3 * d + k];
                sw += o[k] * g[j * d + k];
            }
            gm[j] = sw;
            gm[STREAMS + j * STREAMS] = s0;
            gm[STREAMS + j * STREAMS + 1] = s1;
            gm[STREAMS + j * STREAMS + 2] = s2;
            gm[STREAMS + j * STREAMS + 3] = s3;
        }
    }
}

/* Turn the pairs at the end of a row by the angles of its position. */
static inline void turn(float *row, const float *cosines, const float *sines, int64_t w, int64_t pairs, float sign) {
    float *moving = row + w - 2 * pairs;
    for (int64_t p = 0; p < pairs; p++) {
        float a = moving[2 * p], b = moving[2 * p + 1], c = cosines[p], s = sign * sines[p];
        moving[2 * p] = a * c - b * s;
        moving[2 * p + 1] = a * s + b * c;
    }
}

/* RMS-normalise rows [M, W] (unless inverses is NULL), multiply by weight [W] (unless NULL) and factor, and turn the
 * last 2 * pairs places; row i stands at position i / heads % length. */
void norm_turn_forward(const float *rows, const float *weight, const float *cosines, const float *sines, float *out,
                       float *inverses, int64_t m, int64_t w, int64_t pairs, int64_t heads, int64_t length,
                       float factor, float sign, float eps) {
    if (inverses) inverse_rms(rows, inverses, m, w, eps);
    for (int64_t i = 0; i < m; i++) {
        float scale = inverses ? inverses[i] * factor : factor;
        const float *row = rows + i * w;
        float *o = out + i * w;
        if (weight)
            for (int64_t k = 0; k < w; k++) o[k] = row[k] * scale * weight[k];
        else
            for (int64_t k = 0; k < w; k++) o[k] = row[k] * scale;
        int64_t position = i / heads % length;
        if (pairs) turn(o, cosines + position * pairs, sines + position * pairs, w, pairs, sign);
    }
}

/* grads of the output in, of the rows out, in place; grad_weight [W] is added to. */
void norm_turn_backward(const float *rows, const float *weight, const float *cosines, const float *sines, float *grads,
                        const float *inverses, float *grad_weight, int64_t m, int64_t w, int64_t pairs, int64_t heads,
                        int64_t length, float factor, float sign) {
    for (int64_t i = 0; i < m; i++) {
        const float *row = rows + i * w;
        float *g = grads + i * w;
        int64_t position = i / heads % length;
        if (pairs) turn(g, cosines + position * pairs, sines + position * pairs, w, pairs, -sign);
        float scale = inverses ? inverses[i] * factor : factor, sum = 0;
        if (weight)
            for (int64_t k = 0; k < w; k++) {
                grad_weight[k] += g[k] * row[k] * scale;
                g[k] *= weight[k];
            }
        if (!inverses) {
            for (int64_t k = 0; k < w; k++) g[k] *= scale;
            continue;
        }
        for (int64_t k = 0; k < w; k++) sum += g[k] * row[k];
        float along = sum * inverses[i] * inverses[i] / w;
        for (int64_t k = 0; k < w; k++) g[k] = (g[k] - row[k] * along) * scale;
    }
}

/* both [M, 2W] gate then up, weights [M] or NULL -> out [M, W] */
void swiglu_forward(const float *both, const float *weights, float *out, int64_t m, int64_t w, float limit) {
    for (int64_t i = 0; i < m; i++) {
        const float *gate = both + 2 * i * w, *up = gate + w;
        float *o = out + i * w, weight = weights ? weights[i] : 1.0f;
        for (int64_t k = 0; k < w; k++) {
            float a = gate[k] > limit ? limit : gate[k], b = up[k] > limit ? limit : up[k] < -limit ? -limit : up[k];
            o[k] = a * sigmoid(a) * b * weight;
        }
    }
}

/* both becomes its gradient; grad_weights [M] is written unless NULL. */
void swiglu_backward(float *both, const float *weights, const float *grad, float *grad_weights, int64_t m, int64_t w,
                     float limit) {
    for (int64_t i = 0; i < m; i++) {
        float *gate = both + 2 * i * w, *up = gate + w, weight = weights ? weights[i] : 1.0f, sum = 0;
        const float *g = grad + i * w;
        for (int64_t k = 0; k < w; k++) {
            float x = gate[k], y = up[k];
            float a = x > limit ? limit : x, b = y > limit ? limit : y < -limit ? -limit : y;
            float s = sigmoid(a), silu = a * s, gw = g[k] * weight;
            sum += g[k] * silu * b;
            gate[k] = x > limit ? 0.0f : gw * b * (s + silu * (1 - s));
            up[k] = y > limit || y < -limit ? 0.0f : gw * silu;
        }
        if (grad_weights) grad_weights[i] = sum;
    }
}

/* bfloat16 is the upper half of a float32. */
static inline void widen(const uint16_t *from, float *to, int64_t n) {
    for (int64_t k = 0; k < n; k++) {
        uint32_t bits = (uint32_t)from[k] << 16;
        memcpy(to + k, &bits, sizeof bits);
    }
}

static inline void narrow(const float *from, uint16_t *to, int64_t n) {
    for (int64_t k = 0; k < n; k++) {
        uint32_t bits;
        memcpy(&bits, from + k, sizeof bits);
        to[k] = (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
    }
}

static inline void clear_unread(float *row, const int32_t *range, int64_t w) {
    memset(row, 0, range[0] * sizeof *row);
    memset(row + range[1], 0, (range[2] - range[1]) * sizeof *row);
    memset(row + range[3], 0, (w - 1 - range[3]) * sizeof *row);
}

static inline void softmax_row(float *s, const int32_t *range, const uint8_t *chosen, float sink, int64_t w) {
    float top = sink, sum;
    if (chosen)
        for (int64_t k = range[2]; k < range[3]; k++) s[k] = chosen[k] ? s[k] : -1e30f;
    for (int part = 0; part < 4; part += 2)
        for (int64_t k = range[part]; k < range[part + 1]; k++) top = s[k] > top ? s[k] : top;
    sum = s[w - 1] = power(sink - top);
    for (int part = 0; part < 4; part += 2)
        for (int64_t k = range[part]; k < range[part + 1]; k++) {
            float x = s[k] - top, e = x > -80.0f ? power(x) : 0.0f;
            s[k] = e;
            sum += e;
        }
    float inverse = 1.0f / sum;
    s[w - 1] *= inverse;
    for (int part = 0; part < 4; part += 2)
        for (int64_t k = range[part]; k < range[part + 1]; k++) s[k] *= inverse;
    clear_unread(s, range, w);
}

static inline void softmax_row_backward(const float *a, float *g, const int32_t *range, int64_t w) {
    float sum = a[w - 1] * g[w - 1];
    for (int part = 0; part < 4; part += 2)
        for (int64_t k = range[part]; k < range[part + 1]; k++) sum += a[k] * g[k];
    for (int part = 0; part < 4; part += 2)
        for (int64_t k = range[part]; k < range[part + 1]; k++) g[k] = a[k] * (g[k] - sum);
    g[w - 1] = a[w - 1] * (g[w - 1] - sum);
    clear_unread(g, range, w);
}

/* Softmax in place over scores of groups of H heads of Q queries each, W slots per query; float32, or bfloat16 if
 * is_half.
 *
 * ranges [groups, Q, 4] names the slots a query may read, as two half-open ranges; every other slot gets nothing. The
 * last slot holds the sink [H]. Of the second range, chosen [groups, Q, entries] says which slots count, unless NULL;
 * its first entry stands at first_entry. */
void softmax_forward(void *scores, const int32_t *ranges, const uint8_t *chosen, const float *sink, int64_t groups,
                     int64_t heads, int64_t q, int64_t w, int64_t first_entry, int64_t entries, int64_t is_half) {
    float wide[w];
    for (int64_t i = 0; i < groups * heads * q; i++) {
        int64_t head = i / q % heads, query = i / (q * heads) * q + i % q;
        const uint8_t *c = chosen ? chosen + query * entries - first_entry : chosen;
        float *row = is_half ? wide : (float *)scores + i * w;
        if (is_half) widen((uint16_t *)scores + i * w, wide, w);
        softmax_row(row, ranges + query * 4, c, sink[head], w);
        if (is_half) narrow(wide, (uint16_t *)scores + i * w, w);
    }
}

/* grads of the weights in, of the scores out, in place; grad_sink [H] is added to. */
void softmax_backward(const void *weights, void *grads, const int32_t *ranges, float *grad_sink, int64_t groups,
                      int64_t heads, int64_t q, int64_t w, int64_t is_half) {
    float wide[w], wide_grad[w];
    for (int64_t i = 0; i < groups * heads * q; i++) {
        const int32_t *range = ranges + (i / (q * heads) * q + i % q) * 4;
        const float *row = is_half ? wide : (const float *)weights + i * w;
        float *grad = is_half ? wide_grad : (float *)grads + i * w;
        if (is_half) {
            widen((const uint16_t *)weights + i * w, wide, w);
            widen((uint16_t *)grads + i * w, wide_grad, w);
        }
        softmax_row_backward(row, grad, range, w);
        grad_sink[i / q % heads] += grad[w - 1];
        if (is_half) narrow(wide_grad, (uint16_t *)grads + i * w, w);
    }
}

/* The k-th largest of n numbers, which it shuffles. */
static float kth_largest(float *x, int64_t n, int64_t k) {
    int64_t low = 0, high = n - 1, place = k - 1;
    while (low < high) {
        float pivot = x[(low + high) / 2];
        int64_t i = low, j = high;
        while (i <= j) {
            while (x[i] > pivot) i++;
            while (x[j] < pivot) j--;
            if (i <= j) {
                float swapped = x[i];
                x[i++] = x[j];
                x[j--] = swapped;
            }
        }
        if (place <= j) high = j;
        else if (place >= i) low = i;
        else break;
    }
    return x[place];
}

/* Mark the best top_k of each row's readable entries, ties to the lower index: scores [M, E], ranges [M, 2] int64. */
void choose(const float *scores, const int64_t *ranges, uint8_t *chosen, int64_t m, int64_t e, int64_t top_k) {
    float copy[e + 1];
    for (int64_t i = 0; i < m; i++) {
        const float *s = scores + i * e;
        uint8_t *c = chosen + i * e;
        int64_t first = ranges[2 * i], after = ranges[2 * i + 1], n = after - first, left = top_k;
        memset(c, 0, e);
        if (n <= top_k) {
            memset(c + first, 1, n);
            continue;
        }
        memcpy(copy, s + first, n * sizeof *copy);
        float limit = kth_largest(copy, n, top_k);
        for (int64_t k = first; k < after; k++) {
            c[k] = s[k] > limit;
            left -= c[k];
        }
        for (int64_t k = first; k < after && left > 0; k++)
            if (s[k] == limit) {
                c[k] = 1;
                left--;
            }
    }
}

/* Weighted cross-entropy of logits [M, W], which become their gradient; returns the weighted sum of losses. */
double cross_entropy(float *logits, const int64_t *targets, const float *weights, int64_t m, int64_t w) {
    double total = 0;
    for (int64_t i = 0; i < m; i++) {
        float *x = logits + i * w, top = x[0], sum = 0, right = x[targets[i]];
        for (int64_t k = 1; k < w; k++) top = x[k] > top ? x[k] : top;
        for (int64_t k = 0; k < w; k++) sum += x[k] = power(x[k] - top);
        total += weights[i] * (__builtin_logf(sum) + top - right);
        float scale = weights[i] / sum;
        for (int64_t k = 0; k < w; k++) x[k] *= scale;
        x[targets[i]] -= weights[i];
    }
    return total;
}

/* to [N, W] += the sum of `each` rows of from [., W] at places [N, each] */
void add_rows(const float *from, const int64_t *places, float *to, int64_t n, int64_t each, int64_t w) {
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < each; j++) {
            const float *source = from + places[i * each + j] * w;
            for (int64_t k = 0; k < w; k++) to[i * w + k] += source[k];
        }
}
