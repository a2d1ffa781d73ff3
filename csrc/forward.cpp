#include "forward.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "sample.h"

namespace deepserve {

namespace {

size_t padded_inputs(int inputs) {
  return static_cast<size_t>(inputs + kInputPadding - 1) / kInputPadding * kInputPadding;
}

}  // namespace

Forward::Forward(const Network &network, const StatePool &pool, const Kernels &kernels)
    : network_(network),
      pool_(pool),
      kernels_(kernels),
      sizes_(network.sizes),
      head_scale_(static_cast<size_t>(network.sizes.head_dim),
                  1.0f / std::sqrt(static_cast<float>(network.sizes.head_dim))) {}

// Spread 0..count over the workers in whole grains: work(begin, end, worker).
template <typename Work>
void Forward::split(int count, int grain, const Work &work) {
  const int num_grains = (count + grain - 1) / grain;
  const int num_workers = std::min(workers_->num_threads(), num_grains);
  if (num_workers <= 1) {
    if (count) work(0, count, 0);
    return;
  }
  workers_->run([&](int worker) {
    if (worker >= num_workers) return;
    const auto border = [&](int at) {
      return std::min(count, static_cast<int>(static_cast<int64_t>(num_grains) * at / num_workers) * grain);
    };
    const int begin = border(worker), end = border(worker + 1);
    if (begin < end) work(begin, end, worker);
  });
}

void Forward::multiply(const std::vector<Product> &products) {
  int num_blocks = 0;
  for (const Product &product : products) num_blocks += product.matrix->num_blocks;
  split(num_blocks, 1, [&](int begin, int end, int) {
    int first = 0;
    for (const Product &product : products) {
      const int blocks = product.matrix->num_blocks;
      const int from = std::max(begin - first, 0), to = std::min(end - first, blocks);
      if (from < to)
        kernels_.multiply[product.matrix->format](*product.matrix, *product.x, product.rows, from, to, product.out,
                                                  product.stride);
      first += blocks;
    }
  });
}

void Forward::multiply(const Fused &fused, const Activations &x, int rows, float *out, size_t stride) {
  std::vector<Product> products;
  for (size_t i = 0; i < fused.matrices.size(); i++)
    products.push_back({&fused.matrices[i], &x, rows, out + fused.columns[i], stride});
  multiply(products);
}

// The forms of x [rows][stride] that these products read.
Activations Forward::activate(const float *x, size_t stride, int rows, int inputs,
                              std::initializer_list<const Fused *> readers) {
  bool is_read[kNumActivationForms] = {};
  for (const Fused *fused : readers)
    for (const Matrix &matrix : fused->matrices) is_read[static_cast<int>(activation_form(matrix.format))] = true;
  Activations a;
  a.rows = rows;
  a.inputs = inputs;
  a.stride = padded_inputs(inputs);
  a.f32 = x;
  a.f32_stride = stride;
  const size_t count = static_cast<size_t>(rows) * a.stride;
  const auto reads = [&](ActivationForm form) { return is_read[static_cast<int>(form)]; };
  if (reads(ActivationForm::kBf16)) a.bf16 = scratch_.take<uint16_t>(count);
  if (reads(ActivationForm::kBf16Fp4Order)) a.bf16_fp4 = scratch_.take<uint16_t>(count);
  if (reads(ActivationForm::kInt8)) a.int8 = scratch_.take<int8_t>(count);
  if (reads(ActivationForm::kInt8Mapped)) a.int8_mapped = scratch_.take<int8_t>(count);
  if (a.int8 || a.int8_mapped) {
    a.int8_scales = scratch_.take<float>(count / kActivationGroup);
    a.int8_sums = scratch_.take<int32_t>(count / kFp4Group);
  }
  for (int form = 0; form < kNumActivationForms; form++) {
    if (!is_read[form] || form == static_cast<int>(ActivationForm::kF32)) continue;
    split(rows, 4,
          [&](int begin, int end, int) { kernels_.prepare(a, static_cast<ActivationForm>(form), begin, end); });
  }
  return a;
}

void Forward::turn(int set, int64_t position, float *cos, float *sin) const {
  const std::vector<float> &frequencies = network_.frequencies[set];
  for (size_t i = 0; i < frequencies.size(); i++) {
    // The angle is rounded to float first, as everybody who trains such models does.
    const double angle = static_cast<float>(position) * frequencies[i];
    cos[2 * i] = cos[2 * i + 1] = static_cast<float>(std::cos(angle));
    sin[2 * i + 1] = static_cast<float>(std::sin(angle));
    sin[2 * i] = -sin[2 * i + 1];
  }
}

void Forward::run(const Task *tasks, int num_tasks, Workers &workers) {
  workers_ = &workers;
  scratch_.reset();
  readers_.resize(static_cast<size_t>(workers.num_threads()));
  tokens_.clear();
  for (int i = 0; i < num_tasks; i++) {
    const int row = static_cast<int>(tokens_.size());
    const int64_t first = tasks[i].sequence->length;
    for (int j = 0; j < tasks[i].row->num_tokens; j++)
      tokens_.push_back({&tasks[i], tasks[i].row->tokens[j], first + j, first, row});
  }
  num_tokens_ = static_cast<int>(tokens_.size());
  const int d = sizes_.hidden_size, num_streams = sizes_.streams;
  const size_t rope = static_cast<size_t>(sizes_.rope_dim), count = static_cast<size_t>(num_tokens_);
  for (int set = 0; set < 2; set++) {
    cos_[set] = scratch_.take<float>(count * rope);
    sin_[set] = scratch_.take<float>(count * rope);
    back_[set] = scratch_.take<float>(count * rope);
    for (size_t t = 0; t < count; t++) {
      turn(set, tokens_[t].position, cos_[set] + t * rope, sin_[set] + t * rope);
      for (size_t i = 0; i < rope; i++) back_[set][t * rope + i] = -sin_[set][t * rope + i];
    }
  }
  const size_t wide = static_cast<size_t>(num_streams) * d;
  streams_ = scratch_.take<float>(count * wide);
  for (size_t t = 0; t < count; t++) {
    float *to = streams_ + t * wide;
    const float *row = network_.embedding(tokens_[t].id, to);
    if (row != to) std::memcpy(to, row, sizeof(float) * d);
    for (int s = 1; s < num_streams; s++) std::memcpy(to + static_cast<size_t>(s) * d, to, sizeof(float) * d);
  }

  const size_t stride = padded_inputs(d), scores = static_cast<size_t>((2 + num_streams) * num_streams);
  float *mix = scratch_.take<float>(count * scores);
  float *x = scratch_.take<float>(count * stride);
  const size_t y_stride = static_cast<size_t>(d);
  float *y = scratch_.take<float>(count * y_stride);
  const auto write_streams = [&] {
    split(num_tokens_, 1, [&](int begin, int end, int) {
      for (int t = begin; t < end; t++) {
        const float *mine = mix + static_cast<size_t>(t) * scores;
        kernels_.expand(streams_ + static_cast<size_t>(t) * wide, y + static_cast<size_t>(t) * y_stride,
                        mine + num_streams, mine + 2 * num_streams, num_streams, d);
      }
    });
  };
  for (int layer = 0; layer < sizes_.num_layers; layer++) {
    const Scratch::Mark mark = scratch_.mark();
    const Layer &weights = network_.layers[static_cast<size_t>(layer)];
    mix_streams(weights.attn_hyper, weights.attn_norm, mix, x, stride);
    attention(layer, x, stride, y);
    write_streams();
    scratch_.release(mark);
    mix_streams(weights.ffn_hyper, weights.ffn_norm, mix, x, stride);
    experts(layer, x, stride, y);
    write_streams();
    scratch_.release(mark);
  }
  finish(tasks, num_tasks);
}

// What a sub-block does with the streams of each token, and its normalised input x [tokens][stride].
void Forward::mix_streams(const HyperConnection &hyper, const float *norm, float *mix, float *x, size_t stride) {
  const int d = sizes_.hidden_size, num_streams = sizes_.streams, scores = (2 + num_streams) * num_streams;
  const int wide = num_streams * d;
  const Scratch::Mark mark = scratch_.mark();
  float *raw = scratch_.take<float>(static_cast<size_t>(num_tokens_) * scores);
  float *inverse = scratch_.take<float>(static_cast<size_t>(num_tokens_));
  split(num_tokens_, 16, [&](int begin, int end, int) {
    const float *from = streams_ + static_cast<size_t>(begin) * wide;
    float *my_raw = raw + static_cast<size_t>(begin) * scores, *my_mix = mix + static_cast<size_t>(begin) * scores;
    kernels_.dots(hyper.fn, wide, scores, from, wide, end - begin, wide, my_raw, scores);
    for (int t = begin; t < end; t++)
      inverse[t] = kernels_.inverse_rms(streams_ + static_cast<size_t>(t) * wide, wide, sizes_.norm_eps);
    kernels_.hyper_mix(my_raw, scores, inverse + begin, end - begin, hyper.base, hyper.scale, num_streams,
                       sizes_.sinkhorn_steps, sizes_.hc_eps, my_mix);
    for (int t = begin; t < end; t++) {
      float *row = x + static_cast<size_t>(t) * stride;
      kernels_.collapse(streams_ + static_cast<size_t>(t) * wide, mix + static_cast<size_t>(t) * scores, num_streams, d,
                        row);
      kernels_.rms_norm(row, norm, d, sizes_.norm_eps, row);
      std::memset(row + d, 0, sizeof(float) * (stride - d));
    }
  });
  scratch_.release(mark);
}

// Attention

void Forward::attention(int layer, const float *x, size_t stride, float *y) {
  const Layer &weights = network_.layers[static_cast<size_t>(layer)];
  const int n = num_tokens_, width = sizes_.head_dim, heads = sizes_.num_heads;
  const size_t count = static_cast<size_t>(n);
  const Activations inputs = activate(x, stride, n, sizes_.hidden_size, {&weights.of_input});
  const size_t projected_stride = weights.of_input.stride;
  float *projected = scratch_.take<float>(count * projected_stride);
  multiply(weights.of_input, inputs, n, projected, projected_stride);

  const size_t low_stride = padded_inputs(sizes_.q_rank);
  float *low = scratch_.take<float>(count * low_stride);
  split(n, 4, [&](int begin, int end, int) {
    for (int t = begin; t < end; t++) {
      float *row = low + static_cast<size_t>(t) * low_stride;
      kernels_.rms_norm(projected + static_cast<size_t>(t) * projected_stride, weights.q_norm, sizes_.q_rank,
                        sizes_.norm_eps, row);
      std::memset(row + sizes_.q_rank, 0, sizeof(float) * (low_stride - static_cast<size_t>(sizes_.q_rank)));
    }
  });
  const Activations low_inputs = activate(low, low_stride, n, sizes_.q_rank, {&weights.of_queries});
  const size_t query_stride = weights.of_queries.stride;
  float *queries = scratch_.take<float>(count * query_stride);
  multiply(weights.of_queries, low_inputs, n, queries, query_stride);

  store_history(layer, projected, projected_stride);

  // Each group's inputs begin at a multiple of the padding, so that they are activations of their own.
  const int group_inputs = heads / sizes_.o_groups * width;
  const size_t group_stride = padded_inputs(group_inputs), output_stride = group_stride * sizes_.o_groups;
  float *outputs = scratch_.take<float>(count * output_stride);
  if (group_stride != static_cast<size_t>(group_inputs)) std::memset(outputs, 0, sizeof(float) * count * output_stride);
  split(n, 1, [&](int begin, int end, int worker) {
    for (int t = begin; t < end; t++)
      attend_token(layer, t, queries + static_cast<size_t>(t) * query_stride,
                   projected + static_cast<size_t>(t) * projected_stride, readers_[static_cast<size_t>(worker)],
                   outputs + static_cast<size_t>(t) * output_stride);
  });

  const size_t middle_inputs = static_cast<size_t>(sizes_.o_groups) * sizes_.o_rank;
  const size_t middle_stride = padded_inputs(static_cast<int>(middle_inputs)) + kBlockColumns;
  float *middle = scratch_.take<float>(count * middle_stride);
  std::vector<Activations> of_groups;
  std::vector<Product> products;
  for (int group = 0; group < sizes_.o_groups; group++)
    of_groups.push_back(activate(outputs + group * group_stride, output_stride, n, group_inputs,
                                 {&weights.wo_a[static_cast<size_t>(group)]}));
  const bool is_aligned = sizes_.o_rank % kBlockColumns == 0;
  const size_t apart = is_aligned ? static_cast<size_t>(sizes_.o_rank) : static_cast<size_t>(weights.wo_a[0].stride);
  // Whole blocks of columns are written: groups of another width get a place of their own first.
  float *ranks = is_aligned ? middle : scratch_.take<float>(count * apart * sizes_.o_groups);
  const size_t rank_stride = is_aligned ? middle_stride : apart * sizes_.o_groups;
  for (int group = 0; group < sizes_.o_groups; group++)
    products.push_back({&weights.wo_a[static_cast<size_t>(group)].matrices[0], &of_groups[static_cast<size_t>(group)],
                        n, ranks + group * apart, rank_stride});
  multiply(products);
  for (size_t t = 0; t < count; t++) {
    float *row = middle + t * middle_stride;
    for (int group = 0; group < sizes_.o_groups && !is_aligned; group++)
      std::memcpy(row + static_cast<size_t>(group) * sizes_.o_rank, ranks + t * rank_stride + group * apart,
                  sizeof(float) * sizes_.o_rank);
    std::memset(row + middle_inputs, 0, sizeof(float) * (middle_stride - middle_inputs));
  }
  const Activations middle_activations =
      activate(middle, middle_stride, n, static_cast<int>(middle_inputs), {&weights.wo_b});
  const size_t wide_stride = weights.wo_b.stride;
  float *wide = scratch_.take<float>(count * wide_stride);
  multiply(weights.wo_b, middle_activations, n, wide, wide_stride);
  for (size_t t = 0; t < count; t++)
    std::memcpy(y + t * sizes_.hidden_size, wide + t * wide_stride, sizeof(float) * sizes_.hidden_size);
}

// Window rows, finished entries and index keys, and the tails of what is not finished.
void Forward::store_history(int layer, float *projected, size_t stride) {
  const Layer &weights = network_.layers[static_cast<size_t>(layer)];
  const int width = sizes_.head_dim, rope = sizes_.rope_dim, ratio = weights.plan.ratio, set = weights.plan.rotation;
  for (int t = 0; t < num_tokens_; t++) {
    const Token &token = tokens_[static_cast<size_t>(t)];
    float *row = projected + static_cast<size_t>(t) * stride, *kv = row + weights.kv_column;
    kernels_.rms_norm(kv, weights.kv_norm, width, sizes_.norm_eps, kv);
    const size_t at = static_cast<size_t>(t) * rope;
    kernels_.rotate(kv + width - rope, cos_[set] + at, sin_[set] + at, rope);
    kernels_.store_state[pool_.type](kv, width, pool_.stride,
                                     pool_.window_row(*token.task->sequence, layer, token.position));
    for (const Compressor &compressor : weights.compressors)
      kernels_.add_scaled(row + compressor.gate,
                          compressor.position_bias + token.position % ratio * compressor.per_token, 1.0f,
                          compressor.per_token);
  }
  for (int number = 0; number < static_cast<int>(weights.compressors.size()); number++) {
    const Compressor &compressor = weights.compressors[static_cast<size_t>(number)];
    const size_t size = sizeof(float) * compressor.per_token;
    for (int t = 0; t < num_tokens_; t++) {
      const Token &token = tokens_[static_cast<size_t>(t)];
      const Sequence &sequence = *token.task->sequence;
      if ((token.position + 1) % ratio == 0) {
        // The raw inputs of an entry's tokens: of this row, or stored by rows before it.
        const float *contents[2 * DS_CHUNK_TOKENS], *gates[2 * DS_CHUNK_TOKENS];
        int slots = 0;
        const int64_t begin = token.position + 1 - ratio;
        for (int64_t source = weights.plan.overlaps ? begin - ratio : begin; source <= token.position; source++) {
          if (source < 0) continue;
          const float *content, *gate;
          if (source >= token.first) {
            const float *from = projected + static_cast<size_t>(token.row + (source - token.first)) * stride;
            content = from + compressor.content;
            gate = from + compressor.gate;
          } else {
            content = pool_.tail_row(sequence, layer, number, source);
            gate = content + compressor.per_token;
          }
          // The block before gives its first halves, the own block its second.
          const int half = weights.plan.overlaps && source >= begin ? compressor.width : 0;
          contents[slots] = content + half;
          gates[slots++] = gate + half;
        }
        const Scratch::Mark mark = scratch_.mark();
        float *entry = scratch_.take<float>(static_cast<size_t>(compressor.width));
        float *turns = scratch_.take<float>(2 * static_cast<size_t>(rope));
        kernels_.pool(contents, gates, slots, compressor.width, entry);
        kernels_.rms_norm(entry, compressor.norm, compressor.width, sizes_.norm_eps, entry);
        turn(set, begin, turns, turns + rope);
        kernels_.rotate(entry + compressor.width - rope, turns, turns + rope, rope);
        const int64_t index = token.position / ratio;
        if (number == 0) {
          kernels_.store_state[pool_.type](entry, width, pool_.stride, pool_.entry_row(sequence, layer, index));
        } else {
          kernels_.put_index_key[pool_.type](pool_.key_group(sequence, layer, index / StatePool::kKeysPerGroup),
                                             static_cast<int>(index % StatePool::kKeysPerGroup), entry,
                                             compressor.width);
        }
        scratch_.release(mark);
      }
    }
    // Only now: entries of this row have read the tail of the rows before it.
    for (int t = 0; t < num_tokens_; t++) {
      const Token &token = tokens_[static_cast<size_t>(t)];
      const int64_t end = token.first + token.task->row->num_tokens;
      if (end - token.position >
          pool_.layers[static_cast<size_t>(layer)].compressors[static_cast<size_t>(number)].tail_positions)
        continue;
      float *tail = pool_.tail_row(*token.task->sequence, layer, number, token.position);
      const float *row = projected + static_cast<size_t>(t) * stride;
      std::memcpy(tail, row + compressor.content, size);
      std::memcpy(tail + compressor.per_token, row + compressor.gate, size);
    }
  }
}

void Forward::attend_token(int layer, int t, float *query_row, const float *projected, Reader &reader, float *out) {
  const Layer &weights = network_.layers[static_cast<size_t>(layer)];
  const Token &token = tokens_[static_cast<size_t>(t)];
  const Sequence &sequence = *token.task->sequence;
  const int width = sizes_.head_dim, rope = sizes_.rope_dim, heads = sizes_.num_heads, set = weights.plan.rotation;
  const float *cos = cos_[set] + static_cast<size_t>(t) * rope, *sin = sin_[set] + static_cast<size_t>(t) * rope;
  const size_t stride = pool_.stride;

  std::vector<const void *> &rows = reader.rows;
  rows.clear();
  const auto *window = static_cast<const uint8_t *>(pool_.window_row(sequence, layer, 0));
  const int64_t oldest = std::max<int64_t>(0, token.position + 1 - sizes_.window);
  for (int64_t at = oldest, place = oldest % pool_.ring; at <= token.position; at++) {
    rows.push_back(window + static_cast<size_t>(place) * pool_.row_bytes);
    if (++place == pool_.ring) place = 0;
  }
  const int64_t visible = weights.plan.ratio ? (token.position + 1) / weights.plan.ratio : 0;
  if (weights.plan.selects && visible > sizes_.index_topk) {
    const int index_heads = sizes_.index_heads, index_width = sizes_.index_dim;
    float *index_queries = query_row + weights.index_queries_column;
    for (int h = 0; h < index_heads; h++)
      kernels_.rotate(index_queries + (static_cast<size_t>(h) + 1) * index_width - rope, cos, sin, rope);
    const float scale = 1.0f / std::sqrt(static_cast<float>(index_heads) * static_cast<float>(index_width));
    reader.index_weights.resize(static_cast<size_t>(index_heads));
    for (int h = 0; h < index_heads; h++)
      reader.index_weights[static_cast<size_t>(h)] = projected[weights.index_weights_column + h] * scale;
    const int64_t num_groups = (visible + StatePool::kKeysPerGroup - 1) / StatePool::kKeysPerGroup;
    reader.groups.clear();
    for (int64_t group = 0; group < num_groups; group++)
      reader.groups.push_back(pool_.key_group(sequence, layer, group));
    reader.scores.resize(static_cast<size_t>(num_groups) * StatePool::kKeysPerGroup);
    reader.scratch.resize(
        std::max(index_scratch(index_heads, index_width), static_cast<size_t>(6 * sizes_.index_topk + 48)));
    kernels_.score_index[pool_.type](reader.groups.data(), static_cast<int>(num_groups), index_queries,
                                     reader.index_weights.data(), index_heads, index_width, reader.scratch.data(),
                                     reader.scores.data());
    reader.chosen.resize(static_cast<size_t>(sizes_.index_topk));
    kernels_.select_best(reader.scores.data(), static_cast<int>(visible), sizes_.index_topk, reader.scratch.data(),
                         reader.chosen.data());
    for (int32_t entry : reader.chosen) rows.push_back(pool_.entry_row(sequence, layer, entry));
  } else {
    for (int64_t entry = 0; entry < visible; entry++) rows.push_back(pool_.entry_row(sequence, layer, entry));
  }

  const size_t size = static_cast<size_t>(heads) * stride;
  reader.queries.resize(size);
  reader.outputs.resize(size);
  for (int h = 0; h < heads; h++) {
    float *query = reader.queries.data() + static_cast<size_t>(h) * stride;
    kernels_.rms_norm(query_row + static_cast<size_t>(h) * width, head_scale_.data(), width, sizes_.norm_eps, query);
    kernels_.rotate(query + width - rope, cos, sin, rope);
    std::fill(query + width, query + stride, 0.0f);
  }
  const int num_rows = static_cast<int>(rows.size());
  reader.scratch.resize(std::max(reader.scratch.size(), attend_scratch(heads, num_rows, stride)));
  kernels_.attend[pool_.type](reader.queries.data(), heads, stride, rows.data(), num_rows, weights.sinks,
                              reader.scratch.data(), reader.outputs.data());
  // Keys are values too: turning the output back leaves relative positions only.
  const int per_group = heads / sizes_.o_groups;
  const size_t group_stride = padded_inputs(per_group * width);
  for (int h = 0; h < heads; h++) {
    float *output = reader.outputs.data() + static_cast<size_t>(h) * stride;
    kernels_.rotate(output + width - rope, cos, back_[set] + static_cast<size_t>(t) * rope, rope);
    std::memcpy(out + static_cast<size_t>(h / per_group) * group_stride + static_cast<size_t>(h % per_group) * width,
                output, sizeof(float) * width);
  }
}

// Experts

Forward::Visits Forward::route(const Layer &layer, const float *x, size_t stride) {
  const int n = num_tokens_, num_experts = sizes_.num_experts, per_token = sizes_.experts_per_token;
  float *scores = scratch_.take<float>(static_cast<size_t>(n) * num_experts);
  split(n, 4, [&](int begin, int end, int) {
    float *mine = scores + static_cast<size_t>(begin) * num_experts;
    kernels_.dots(layer.gate, sizes_.hidden_size, num_experts, x + static_cast<size_t>(begin) * stride, stride,
                  end - begin, sizes_.hidden_size, mine, num_experts);
    kernels_.router_scores(mine, (end - begin) * num_experts, mine);
  });
  int32_t *chosen = scratch_.take<int32_t>(static_cast<size_t>(n) * per_token);
  float *weights = scratch_.take<float>(static_cast<size_t>(n) * per_token);
  std::vector<int> counts(static_cast<size_t>(num_experts), 0);
  std::vector<char> is_chosen(static_cast<size_t>(num_experts), 0);
  for (int t = 0; t < n; t++) {
    const float *mine = scores + static_cast<size_t>(t) * num_experts;
    int32_t *of_token = chosen + static_cast<size_t>(t) * per_token;
    if (layer.gate_table) {
      std::memcpy(of_token, layer.gate_table + static_cast<size_t>(tokens_[static_cast<size_t>(t)].id) * per_token,
                  sizeof(int32_t) * per_token);
    } else {
      for (int i = 0; i < per_token; i++) {
        int best = -1;
        float best_score = 0;
        for (int expert = 0; expert < num_experts; expert++) {
          const float score = mine[expert] + layer.gate_bias[expert];
          // Not "greater": a score that is no number is chosen when nothing else is left.
          if (!is_chosen[static_cast<size_t>(expert)] && (best < 0 || score > best_score)) {
            best = expert;
            best_score = score;
          }
        }
        is_chosen[static_cast<size_t>(best)] = 1;
        of_token[i] = best;
      }
      for (int i = 0; i < per_token; i++) is_chosen[static_cast<size_t>(of_token[i])] = 0;
      std::sort(of_token, of_token + per_token);
    }
    float total = 0;
    for (int i = 0; i < per_token; i++) total += mine[of_token[i]];
    for (int i = 0; i < per_token; i++) {
      weights[static_cast<size_t>(t) * per_token + i] = mine[of_token[i]] / (total + 1e-20f) * sizes_.routed_scale;
      counts[static_cast<size_t>(of_token[i])]++;
    }
  }
  Visits visits;
  visits.num = n * per_token;
  visits.tokens = scratch_.take<int32_t>(static_cast<size_t>(visits.num));
  visits.weights = scratch_.take<float>(static_cast<size_t>(visits.num));
  std::vector<int> next(static_cast<size_t>(num_experts), 0);
  int first = 0;
  for (int expert = 0; expert < num_experts; expert++) {
    next[static_cast<size_t>(expert)] = first;
    if (!counts[static_cast<size_t>(expert)]) continue;
    visits.experts.push_back(expert);
    visits.first.push_back(first);
    first += counts[static_cast<size_t>(expert)];
  }
  visits.first.push_back(first);
  for (int t = 0; t < n; t++)
    for (int i = 0; i < per_token; i++) {
      const size_t from = static_cast<size_t>(t) * per_token + i;
      const int to = next[static_cast<size_t>(chosen[from])]++;
      visits.tokens[to] = t;
      visits.weights[to] = weights[from];
    }
  return visits;
}

void Forward::experts(int layer_number, const float *x, size_t stride, float *y) {
  const Layer &layer = network_.layers[static_cast<size_t>(layer_number)];
  const int n = num_tokens_, d = sizes_.hidden_size, hidden = sizes_.expert_width;
  const size_t count = static_cast<size_t>(n);
  const Activations inputs = activate(x, stride, n, d, {&layer.shared_w13, &layer.w13[0]});
  const Visits visits = route(layer, x, stride);
  const int num_visited = static_cast<int>(visits.experts.size());
  const size_t hidden_stride = padded_inputs(hidden);

  // The gates and ups of the shared expert for every token, then of every visit; then what they become.
  const size_t shared_stride = layer.shared_w13.stride, routed_stride = layer.w13[0].stride;
  float *shared_raw = scratch_.take<float>(count * shared_stride);
  float *routed_raw = scratch_.take<float>(static_cast<size_t>(visits.num) * routed_stride);
  std::vector<Activations> of_experts(static_cast<size_t>(num_visited), inputs);
  std::vector<Product> products;
  for (size_t i = 0; i < layer.shared_w13.matrices.size(); i++)
    products.push_back(
        {&layer.shared_w13.matrices[i], &inputs, n, shared_raw + layer.shared_w13.columns[i], shared_stride});
  for (int i = 0; i < num_visited; i++) {
    const size_t at = static_cast<size_t>(i);
    const int first = visits.first[at];
    of_experts[at].row_of = visits.tokens + first;
    const Fused &fused = layer.w13[static_cast<size_t>(visits.experts[at])];
    for (size_t m = 0; m < fused.matrices.size(); m++)
      products.push_back({&fused.matrices[m], &of_experts[at], visits.first[at + 1] - first,
                          routed_raw + static_cast<size_t>(first) * routed_stride + fused.columns[m], routed_stride});
  }
  multiply(products);

  const int num_rows = n + visits.num;  // shared first
  float *rows = scratch_.take<float>(static_cast<size_t>(num_rows) * hidden_stride);
  split(num_rows, 4, [&](int begin, int end, int) {
    for (int r = begin; r < end; r++) {
      float *row = rows + static_cast<size_t>(r) * hidden_stride;
      const bool is_shared = r < n;
      const float *raw = is_shared ? shared_raw + static_cast<size_t>(r) * shared_stride
                                   : routed_raw + static_cast<size_t>(r - n) * routed_stride;
      kernels_.swiglu(raw, raw + (is_shared ? layer.shared_up_column : layer.up_column), hidden, sizes_.swiglu_limit,
                      row);
      std::memset(row + hidden, 0, sizeof(float) * (hidden_stride - static_cast<size_t>(hidden)));
    }
  });
  const Activations of_shared = activate(rows, hidden_stride, n, hidden, {&layer.shared_w2});
  const Activations of_visits =
      activate(rows + count * hidden_stride, hidden_stride, visits.num, hidden, {&layer.w2[0]});
  const size_t out_stride = std::max(layer.shared_w2.stride, layer.w2[0].stride);
  float *outputs = scratch_.take<float>(static_cast<size_t>(num_rows) * out_stride);
  int32_t *numbers = scratch_.take<int32_t>(static_cast<size_t>(visits.num));
  for (int i = 0; i < visits.num; i++) numbers[i] = i;
  products.clear();
  for (size_t i = 0; i < layer.shared_w2.matrices.size(); i++)
    products.push_back({&layer.shared_w2.matrices[i], &of_shared, n, outputs + layer.shared_w2.columns[i], out_stride});
  for (int i = 0; i < num_visited; i++) {
    const size_t at = static_cast<size_t>(i);
    const int first = visits.first[at];
    of_experts[at] = of_visits;
    of_experts[at].row_of = numbers + first;
    const Fused &fused = layer.w2[static_cast<size_t>(visits.experts[at])];
    for (size_t m = 0; m < fused.matrices.size(); m++)
      products.push_back({&fused.matrices[m], &of_experts[at], visits.first[at + 1] - first,
                          outputs + (count + static_cast<size_t>(first)) * out_stride + fused.columns[m], out_stride});
  }
  multiply(products);

  // Every token's experts in ascending order; workers share the columns.
  split(d, 256, [&](int begin, int end, int) {
    for (size_t t = 0; t < count; t++)
      std::memcpy(y + t * d + begin, outputs + t * out_stride + begin,
                  sizeof(float) * static_cast<size_t>(end - begin));
    for (int i = 0; i < visits.num; i++)
      kernels_.add_scaled(y + static_cast<size_t>(visits.tokens[i]) * d + begin,
                          outputs + (count + static_cast<size_t>(i)) * out_stride + begin, visits.weights[i],
                          end - begin);
  });
}

// The end

void Forward::finish(const Task *tasks, int num_tasks) {
  std::vector<int> wanted;
  int row = 0;
  for (int i = 0; i < num_tasks; i++) {
    const ds_row &asked = *tasks[i].row;
    if (asked.want == DS_WANT_TOKEN) wanted.push_back(row + asked.num_tokens - 1);
    for (int j = 0; j < asked.num_tokens && asked.want == DS_WANT_LOGITS; j++) wanted.push_back(row + j);
    row += asked.num_tokens;
  }
  const int n = static_cast<int>(wanted.size()), d = sizes_.hidden_size, num_streams = sizes_.streams;
  if (!n) return;
  const int wide = num_streams * d;
  const size_t stride = padded_inputs(d);
  float *x = scratch_.take<float>(static_cast<size_t>(n) * stride);
  float *read = scratch_.take<float>(static_cast<size_t>(num_streams));
  for (int i = 0; i < n; i++) {
    const float *streams = streams_ + static_cast<size_t>(wanted[static_cast<size_t>(i)]) * wide;
    kernels_.dots(network_.head_hyper.fn, wide, num_streams, streams, wide, 1, wide, read, num_streams);
    const float inverse = kernels_.inverse_rms(streams, wide, sizes_.norm_eps);
    for (int s = 0; s < num_streams; s++)
      read[s] = read[s] * inverse * network_.head_hyper.scale[s] + network_.head_hyper.base[s];
    kernels_.sigmoids(read, num_streams);
    for (int s = 0; s < num_streams; s++) read[s] += sizes_.hc_eps;
    float *to = x + static_cast<size_t>(i) * stride;
    kernels_.collapse(streams, read, num_streams, d, to);
    kernels_.rms_norm(to, network_.norm, d, sizes_.norm_eps, to);
    std::memset(to + d, 0, sizeof(float) * (stride - d));
  }
  const Activations inputs = activate(x, stride, n, d, {&network_.head});
  const size_t logit_stride = network_.head.stride;
  float *logits = scratch_.take<float>(static_cast<size_t>(n) * logit_stride);
  multiply(network_.head, inputs, n, logits, logit_stride);
  const float *next = logits;
  for (int i = 0; i < num_tasks; i++) {
    const ds_row &asked = *tasks[i].row;
    if (asked.want == DS_WANT_TOKEN) {
      draw_token(next, sizes_.vocab_size, *asked.draw, kernels_, scratch_, *tasks[i].drawn);
      next += logit_stride;
    }
    for (int j = 0; j < asked.num_tokens && asked.want == DS_WANT_LOGITS; j++) {
      std::memcpy(asked.logits + static_cast<size_t>(j) * sizes_.vocab_size, next, sizeof(float) * sizes_.vocab_size);
      next += logit_stride;
    }
  }
}

}  // namespace deepserve
