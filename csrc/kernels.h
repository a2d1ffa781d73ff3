// The arithmetic that exists once per instruction set, as a table of functions.
//
// Every kernel computes each row (token) by itself, in one fixed order of additions: results do not depend on how many
// rows are given, on tiles, or on threads. The orders are the same in every instruction set that has fused
// multiply-add, so results are too; but AVX-512 takes subnormal bf16 values and products for zero.
#pragma once

#include <cstddef>
#include <cstdint>

#include "matrix.h"

namespace deepserve {

struct Kernels {
  const char *name;

  // Fill in one form of the activations from their f32 rows [first_row, end_row); int8 also fills scales and sums.
  void (*prepare)(const Activations &x, ActivationForm form, int first_row, int end_row);

  // out[r][column] = sum over k of x[r][k] * weight[k][column], for the columns of blocks [first_block, end_block).
  // Whole blocks are written, so `stride` has room for the padding columns.
  void (*multiply[DS_NUM_FORMATS])(const Matrix &w, const Activations &x, int rows, int first_block, int end_block,
                                   float *out, size_t stride);

  // out[r][o] = dot(x[r], w[o]) for few outputs; all rows padded with zeros to a multiple of 16.
  void (*dots)(const float *w, size_t w_stride, int outputs, const float *x, size_t x_stride, int rows, int inputs,
               float *out, size_t out_stride);

  // out = x / rms(x) * weight (weight may be null); x and out may be the same.
  void (*rms_norm)(const float *x, const float *weight, int width, float eps, float *out);

  // Turn pairs (2i, 2i+1) of x [rope_dim] by the angles: cos and sin per element, sin signed (-, +); in place.
  void (*rotate)(float *x, const float *cos, const float *sin, int rope_dim);

  // out[i] = silu(min(gate[i], limit)) * clamp(up[i], -limit, limit)
  void (*swiglu)(const float *gate, const float *up, int width, float limit, float *out);

  // out += weight * x
  void (*add_scaled)(float *out, const float *x, float weight, int width);

  // out[i] = sqrt(softplus(x[i]))
  void (*router_scores)(const float *x, int count, float *out);

  // Hyper-connections. scores [rows][stride]: raw dots; inverse_rms [rows]; base, and scale per score, [2S + S*S].
  // -> mix [rows][2S + S*S]: read, write, carry.
  void (*hyper_mix)(const float *scores, size_t stride, const float *inverse_rms, int rows, const float *base,
                    const float *scale, int streams, int steps, float eps, float *mix);
  // 1 / sqrt(mean(x^2) + eps)
  float (*inverse_rms)(const float *x, int width, float eps);
  // out = sum over s of read[s] * streams[s]
  void (*collapse)(const float *streams, const float *read, int num_streams, int width, float *out);
  // streams[k] = write[k] * y + sum over j of carry[j][k] * streams[j], in place
  void (*expand)(float *streams, const float *y, const float *write, const float *carry, int num_streams, int width);

  // One compressed entry: for each channel a softmax over the slots' gates, and the weighted sum of their contents.
  void (*pool)(const float *const *contents, const float *const *gates, int slots, int width, float *out);

  // Attention of one token: heads [heads][stride] already scaled, over rows that are keys and values at once, with a
  // sink per head. Rows have `stride` elements of the state type, a multiple of 32, zero beyond the head's width.
  // scratch: attend_scratch(heads, num_rows, stride) floats.
  void (*attend[2])(const float *queries, int heads, size_t stride, const void *const *rows, int num_rows,
                    const float *sinks, float *scratch, float *out);

  // Index keys in groups of 16. int8: per group [width / 4][16][4] bytes (value + 128), then 16 float scales.
  // f32: per group [width][16] floats. width is padded to a multiple of 32.
  void (*put_index_key[2])(uint8_t *group, int place, const float *key, int width);
  // scores[16 * g + i] = sum over h of weights[h] * max(0, queries[h] . key[i]) for each group pointer.
  // scratch: index_scratch(heads, width) floats.
  void (*score_index[2])(const uint8_t *const *groups, int num_groups, const float *queries, const float *weights,
                         int heads, int width, float *scratch, float *scores);
  // The best `number` of `count` scores, ties to the lower index, ascending. scratch: 6 * number + 48 floats.
  void (*select_best)(const float *scores, int count, int number, float *scratch, int32_t *chosen);

  // float32 rows to and from the state type, padded with zeros to `stride`.
  void (*store_state[2])(const float *x, int width, size_t stride, void *row);

  void (*sigmoids)(float *x, int count);        // x = 1 / (1 + exp(-x))
  float (*largest)(const float *x, int count);  // not a number if any value is not finite
  void (*exponentials)(double *x, int count);   // x = exp(x), |relative error| < 1e-15
  // weights = exp((scores - best) / temperature); buckets = (best - scores) * per_bucket in whole numbers, at most
  // last_bucket.
  void (*weigh)(const double *scores, int count, double best, double temperature, double per_bucket, int last_bucket,
                double *weights, int32_t *buckets);
};

size_t attend_scratch(int heads, int num_rows, size_t stride);
size_t index_scratch(int heads, int width);

// Tables that this build has; null where it has none. The caller knows whether the machine runs them.
const Kernels *kernels_generic();
const Kernels *kernels_avx2();
const Kernels *kernels_avx512();
const Kernels *kernels_neon();

}  // namespace deepserve
