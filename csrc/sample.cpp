#include "sample.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "late_mask.h"

namespace deepserve {

namespace {

constexpr double kForbidden = -std::numeric_limits<double>::infinity();
constexpr int kNumBuckets = 2048;
constexpr double kReach = 16.0;  // times the temperature: what is further behind the best shares the last bucket

// Penalties and biases, in the order of `Draw`.
void adjust(double *scores, const ds_draw &draw) {
  if (draw.repetition_penalty != 1.0) {
    const auto penalise = [&](int token) {
      double &score = scores[token];
      score = score > 0 ? score / draw.repetition_penalty : score * draw.repetition_penalty;
    };
    for (int i = 0; i < draw.num_prompt_tokens; i++) penalise(draw.prompt_tokens[i]);
    std::vector<int32_t> prompt(draw.prompt_tokens, draw.prompt_tokens + draw.num_prompt_tokens);
    std::sort(prompt.begin(), prompt.end());
    for (int i = 0; i < draw.num_counts; i++)
      if (!std::binary_search(prompt.begin(), prompt.end(), draw.count_tokens[i])) penalise(draw.count_tokens[i]);
  }
  if (draw.frequency_penalty != 0.0 || draw.presence_penalty != 0.0)
    for (int i = 0; i < draw.num_counts; i++)
      scores[draw.count_tokens[i]] -=
          draw.frequency_penalty * draw.counts[i] + draw.presence_penalty * (draw.counts[i] > 0);
  for (int i = 0; i < draw.num_biases; i++) scores[draw.bias_tokens[i]] += draw.bias_values[i];
}

// The bits of a mask that had to be waited for; null if it could not be computed or is too short.
const uint8_t *arrived(const ds_late_mask &mask, int vocab_size) {
  return wait_for(mask) == DS_MASK_READY && mask.num_bytes >= (vocab_size + 7) / 8 ? mask.bits : nullptr;
}

// Calls visit(token) for every bit of the mask that is `wanted`, ascending.
template <typename Visit>
void visit_bits(const uint8_t *mask, int vocab_size, bool wanted, const Visit &visit) {
  for (int first = 0; first < vocab_size; first += 64) {
    const int width = std::min(64, vocab_size - first);
    uint64_t word = 0;
    for (int byte = 0; byte * 8 < width; byte++) word |= static_cast<uint64_t>(mask[first / 8 + byte]) << (8 * byte);
    if (!wanted) word = ~word;
    if (width < 64) word &= (uint64_t{1} << width) - 1;
    for (; word; word &= word - 1) visit(first + __builtin_ctzll(word));
  }
}

// Takes the forbidden tokens out, so that what follows takes the time of those that may be drawn: few allowed ones are
// moved to the front, in order, and `tokens` says which they are; few forbidden ones fall to -inf where they are, and
// `tokens` becomes null. Both ways draw the same. Returns how many scores are left.
int keep_allowed(double *scores, int vocab_size, const uint8_t *mask, int32_t *&tokens) {
  int num_allowed = 0;
  for (int byte = 0; byte + 8 <= vocab_size / 8; byte += 8) {
    uint64_t word;
    std::memcpy(&word, mask + byte, sizeof word);
    num_allowed += __builtin_popcountll(word);
  }
  if (num_allowed > vocab_size / 2) {
    visit_bits(mask, vocab_size, false, [&](int token) { scores[token] = kForbidden; });
    tokens = nullptr;
    return vocab_size;
  }
  int number = 0;
  visit_bits(mask, vocab_size, true, [&](int token) {
    tokens[number] = token;
    scores[number++] = scores[token];
  });
  return number;
}

// In lanes, because one maximum after the other is one latency after the other.
double largest(const double *scores, int number) {
  constexpr int kLanes = 16;
  double best[kLanes];
  std::fill(best, best + kLanes, kForbidden);
  int i = 0;
  for (; i + kLanes <= number; i += kLanes)
    for (int lane = 0; lane < kLanes; lane++)
      best[lane] = best[lane] < scores[i + lane] ? scores[i + lane] : best[lane];
  for (; i < number; i++) best[0] = best[0] < scores[i] ? scores[i] : best[0];
  return *std::max_element(best, best + kLanes);
}

void report_logprobs(const double *scores, int num_tokens, double best, int num_top, const Kernels &kernels,
                     Scratch &scratch, ds_drawn &drawn) {
  double *weights = scratch.take<double>(static_cast<size_t>(num_tokens));
  for (int token = 0; token < num_tokens; token++) weights[token] = scores[token] - best;
  kernels.exponentials(weights, num_tokens);
  double total = 0;
  for (int token = 0; token < num_tokens; token++) total += weights[token];
  const double log_total = best + std::log(total);
  drawn.logprob = scores[drawn.token] - log_total;
  int found = 0;
  for (int token = 0; token < num_tokens && num_top; token++) {
    if (scores[token] == kForbidden) continue;
    if (found == num_top && !(scores[token] > scores[drawn.top_tokens[found - 1]])) continue;
    int at = found < num_top ? found++ : found - 1;
    for (; at > 0 && scores[token] > scores[drawn.top_tokens[at - 1]]; at--)
      drawn.top_tokens[at] = drawn.top_tokens[at - 1];
    drawn.top_tokens[at] = token;
  }
  for (int i = 0; i < found; i++) drawn.top_logprobs[i] = scores[drawn.top_tokens[i]] - log_total;
  drawn.num_top = found;
}

// The tokens by falling score, without sorting them all: scores fall into buckets whose order is theirs, and only the
// bucket where a sum crosses its mark is sorted. What is kept is always a beginning of that order.
class Ranking {
 public:
  Ranking(const double *scores, int num_tokens, double best, double temperature, const Kernels &kernels,
          Scratch &scratch)
      : scores_(scores), num_tokens_(num_tokens) {
    weights_ = scratch.take<double>(static_cast<size_t>(num_tokens));
    buckets_ = scratch.take<int32_t>(static_cast<size_t>(num_tokens));
    kernels.weigh(scores, num_tokens, best, temperature, kNumBuckets / (kReach * temperature), kNumBuckets - 1,
                  weights_, buckets_);
    for (int token = 0; token < num_tokens; token++) {
      mass_[buckets_[token]] += weights_[token];
      count_[buckets_[token]] += scores[token] != kForbidden;
    }
    keep_all();
  }

  void keep_best(int64_t number) {
    int64_t before = 0;
    for (int bucket = 0; bucket < kNumBuckets; bucket++) {
      if (before + count_[bucket] >= number) {
        cut(bucket, static_cast<size_t>(number - before));
        return;
      }
      before += count_[bucket];
    }
  }

  // The shortest beginning whose mass reaches this share of what is kept.
  void keep_mass(double share) {
    int bucket;
    size_t place;
    find(share * kept_mass_, true, bucket, place);
    cut(bucket, place + 1);
  }

  // Weights fall along the order, so this too leaves a beginning of it: as many as are heavy enough.
  void keep_heavier(double least) {
    int64_t number = 0, kept = static_cast<int64_t>(last_number_);
    for (int token = 0; token < num_tokens_; token++) number += weights_[token] >= least;
    for (int bucket = 0; bucket < last_bucket_; bucket++) kept += count_[bucket];
    if (number < kept) keep_best(number);
  }

  int choose(double at) {
    int bucket;
    size_t place;
    find(at * kept_mass_, false, bucket, place);
    return sorted(bucket)[place];
  }

 private:
  void keep_all() {
    last_bucket_ = kNumBuckets - 1;
    while (last_bucket_ > 0 && !count_[last_bucket_]) last_bucket_--;
    last_number_ = static_cast<size_t>(count_[last_bucket_]);
    kept_mass_ = 0;
    for (double mass : mass_) kept_mass_ += mass;
  }

  void cut(int bucket, size_t number) {
    kept_mass_ = 0;
    for (int before = 0; before < bucket; before++) kept_mass_ += mass_[before];
    const std::vector<int32_t> &order = sorted(bucket);
    for (size_t i = 0; i < number; i++) kept_mass_ += weights_[order[i]];
    last_bucket_ = bucket;
    last_number_ = number;
  }

  // The first token at which the running mass reaches (or, not inclusive, exceeds) the mark.
  void find(double mark, bool is_inclusive, int &bucket, size_t &place) {
    const auto is_past = [&](double mass) { return is_inclusive ? mass >= mark : mass > mark; };
    double mass = 0;
    for (bucket = 0; bucket < last_bucket_ && !is_past(mass + mass_[bucket]); bucket++) mass += mass_[bucket];
    while (true) {
      const std::vector<int32_t> &order = sorted(bucket);
      const size_t number = bucket == last_bucket_ ? last_number_ : order.size();
      for (place = 0; place < number; place++) {
        mass += weights_[order[place]];
        if (is_past(mass)) return;
      }
      if (bucket == last_bucket_) break;
      bucket++;  // the sum in order fell short of the bucket's by a rounding
    }
    place = last_number_ - 1;
  }

  const std::vector<int32_t> &sorted(int bucket) {
    if (bucket == sorted_bucket_) return order_;
    order_.clear();
    for (int token = 0; token < num_tokens_; token++)
      if (buckets_[token] == bucket && scores_[token] != kForbidden) order_.push_back(token);
    std::sort(order_.begin(), order_.end(),
              [this](int32_t a, int32_t b) { return scores_[a] != scores_[b] ? scores_[a] > scores_[b] : a < b; });
    sorted_bucket_ = bucket;
    return order_;
  }

  const double *scores_;
  const int num_tokens_;
  double *weights_;
  int32_t *buckets_;
  double mass_[kNumBuckets] = {};
  int64_t count_[kNumBuckets] = {};
  int last_bucket_ = 0, sorted_bucket_ = -1;
  size_t last_number_ = 0;
  double kept_mass_ = 0;
  std::vector<int32_t> order_;
};

}  // namespace

double uniform(uint64_t seed, uint64_t position) {
  uint64_t z = seed * 0x9E3779B97F4A7C15u + (position + 1) * 0xD1B54A32D192ED03u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return static_cast<double>((z ^ (z >> 31)) >> 11) / 9007199254740992.0;
}

void draw_token(const float *logits, int vocab_size, const ds_draw &draw, const Kernels &kernels, Scratch &scratch,
                ds_drawn &drawn) {
  const float top = kernels.largest(logits, vocab_size);
  if (!std::isfinite(top)) {
    drawn.fault = DS_ROW_NOT_FINITE;
    return;
  }
  const bool is_adjusted = draw.repetition_penalty != 1.0 || draw.frequency_penalty != 0.0 ||
                           draw.presence_penalty != 0.0 || draw.num_biases;
  const bool is_masked = draw.has_mask || draw.late_mask;
  const uint8_t *mask = draw.mask;
  if (!is_adjusted && draw.temperature == 0.0 && draw.num_top_logprobs < 0) {
    const auto likeliest = static_cast<int32_t>(std::find(logits, logits + vocab_size, top) - logits);
    if (draw.late_mask) mask = arrived(*draw.late_mask, vocab_size);
    if (!is_masked || (mask && mask[likeliest / 8] >> likeliest % 8 & 1)) {  // as it nearly always is
      drawn.token = likeliest;
      return;
    }
  }
  const Scratch::Mark mark = scratch.mark();
  double *scores = scratch.take<double>(static_cast<size_t>(vocab_size));
  for (int token = 0; token < vocab_size; token++) scores[token] = logits[token];
  if (is_adjusted) adjust(scores, draw);
  int32_t *tokens = nullptr;  // of the scores; null: all of them
  int num_tokens = vocab_size;
  if (is_masked) {
    if (draw.late_mask) mask = arrived(*draw.late_mask, vocab_size);
    if (!mask) {
      drawn.fault = DS_ROW_NO_MASK;
      scratch.release(mark);
      return;
    }
    tokens = scratch.take<int32_t>(static_cast<size_t>(vocab_size));
    num_tokens = keep_allowed(scores, vocab_size, mask, tokens);
  }
  const double best = is_adjusted || is_masked ? largest(scores, num_tokens) : top;
  // Extreme penalties and biases can overflow to values that have no order.
  const bool is_ordered = !is_adjusted || std::none_of(scores, scores + num_tokens, [](double x) { return x != x; });
  if (!std::isfinite(best) || !is_ordered) {
    drawn.fault = DS_ROW_NOTHING_ALLOWED;
    scratch.release(mark);
    return;
  }
  if (draw.temperature == 0.0) {
    drawn.token = static_cast<int32_t>(std::find(scores, scores + num_tokens, best) - scores);
  } else {
    Ranking ranking(scores, num_tokens, best, draw.temperature, kernels, scratch);
    if (draw.top_k > 0) ranking.keep_best(draw.top_k);
    if (draw.top_p < 1.0) ranking.keep_mass(draw.top_p);
    if (draw.min_p > 0.0) ranking.keep_heavier(draw.min_p);
    drawn.token = ranking.choose(uniform(draw.seed, draw.position));
  }
  if (draw.num_top_logprobs >= 0)
    report_logprobs(scores, num_tokens, best, draw.num_top_logprobs, kernels, scratch, drawn);
  if (tokens) {
    drawn.token = tokens[drawn.token];
    for (int i = 0; i < drawn.num_top; i++) drawn.top_tokens[i] = tokens[drawn.top_tokens[i]];
  }
  scratch.release(mark);
}

}  // namespace deepserve
