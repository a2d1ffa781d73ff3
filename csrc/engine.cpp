#include "engine.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstring>
#include <unordered_set>

#include "instruction_sets.h"

namespace deepserve {

namespace {

constexpr int kMostThreads = 256;
constexpr int64_t kMostStepTokens = 1 << 16;  // times the most experts still fits an int

int checked_threads(int32_t num_threads) {
  if (num_threads < 1 || num_threads > kMostThreads)
    fail(DS_INVALID,
         "num_threads must be between 1 and " + std::to_string(kMostThreads) + ", not " + std::to_string(num_threads));
  return num_threads;
}

}  // namespace

Spread SpreadChooser::choose(bool can_split_rows) {
  if (steps_left_ > 0) {
    steps_left_--;
    return best_;
  }
  for (Spread spread : {Spread::kAlone, Spread::kTogether, Spread::kApart}) {
    if (spread == Spread::kApart && !can_split_rows) continue;
    if (times_[static_cast<int>(spread)].size() < kTrials) return spread;
  }
  double best_time = 0;
  for (Spread spread : {Spread::kAlone, Spread::kTogether, Spread::kApart}) {
    std::vector<double> &times = times_[static_cast<int>(spread)];
    if (times.empty()) continue;
    std::sort(times.begin(), times.end());
    const double median = times[times.size() / 2];
    if (spread == Spread::kAlone || median < best_time) {
      best_ = spread;
      best_time = median;
    }
    times.clear();
  }
  steps_left_ = kStepsBetween;
  return best_;
}

void SpreadChooser::report(Spread used, double seconds_per_token) {
  if (steps_left_ == 0) times_[static_cast<int>(used)].push_back(seconds_per_token);
}

Engine::Engine(const ds_network &sizes, const ds_options &options)
    : network(sizes, options),
      kernels_(choose_kernels(options.isa)),
      pool_(network, static_cast<ds_state_type>(options.state_type), options.memory_bytes),
      workers_(checked_threads(options.num_threads)) {
  for (int i = 0; i < workers_.num_threads(); i++)
    forwards_.push_back(std::make_unique<Forward>(network, pool_, kernels_));
}

void Engine::seal() {
  network.seal();
  has_huge_pages_ = has_huge_pages(network.area());
}

void Engine::load_packed(const std::string &path, const uint8_t key[32]) {
  network.load_packed(path, key);
  has_huge_pages_ = has_huge_pages(network.area());
}

StatePool &Engine::pool() { return const_cast<StatePool &>(static_cast<const Engine *>(this)->pool()); }

const StatePool &Engine::pool() const {
  if (!network.is_sealed) fail(DS_INVALID, "the network is not sealed yet");
  return pool_;
}

void Engine::check(const ds_row &row, const Sequence &sequence) const {
  const int64_t begin = sequence.length, end = begin + row.num_tokens;
  if (!row.tokens || row.num_tokens < 1 || row.num_tokens > DS_CHUNK_TOKENS ||
      begin / DS_CHUNK_TOKENS != (end - 1) / DS_CHUNK_TOKENS)
    fail(DS_INVALID, "tokens " + std::to_string(begin) + " to " + std::to_string(end) + " cross a multiple of " +
                         std::to_string(DS_CHUNK_TOKENS));
  if (end > network.sizes.max_context)
    fail(DS_INVALID,
         std::to_string(end) + " tokens exceed the context of " + std::to_string(network.sizes.max_context));
  for (int i = 0; i < row.num_tokens; i++)
    if (row.tokens[i] < 0 || row.tokens[i] >= network.sizes.vocab_size)
      fail(DS_INVALID, "token ids must be within 0.." + std::to_string(network.sizes.vocab_size - 1) + ", not " +
                           std::to_string(row.tokens[i]));
  switch (row.want) {
    case DS_WANT_NOTHING:
      break;
    case DS_WANT_TOKEN:
      if (!row.draw) fail(DS_INVALID, "a row that wants a token needs a draw");
      check(*row.draw);
      break;
    case DS_WANT_LOGITS:
      if (!row.logits) fail(DS_INVALID, "a row that wants logits needs room for them");
      break;
    default:
      fail(DS_INVALID, "a row wants " + std::to_string(row.want) + ", which is nothing known");
  }
}

void Engine::check(const ds_draw &draw) const {
  const auto check_tokens = [this](const int32_t *tokens, int32_t count) {
    if (count < 0 || (count && !tokens)) fail(DS_INVALID, "a draw has a list without a length");
    for (int i = 0; i < count; i++)
      if (tokens[i] < 0 || tokens[i] >= network.sizes.vocab_size)
        fail(DS_INVALID, "a draw names token ids outside 0.." + std::to_string(network.sizes.vocab_size - 1));
  };
  check_tokens(draw.bias_tokens, draw.num_biases);
  check_tokens(draw.prompt_tokens, draw.num_prompt_tokens);
  check_tokens(draw.count_tokens, draw.num_counts);
  if ((draw.num_biases && !draw.bias_values) || (draw.num_counts && !draw.counts))
    fail(DS_INVALID, "a draw has a list without its values");
  if (!(draw.temperature >= 0.0) || !std::isfinite(draw.temperature) || !(draw.top_p > 0.0 && draw.top_p <= 1.0) ||
      !(draw.min_p >= 0.0 && draw.min_p <= 1.0) || !(draw.repetition_penalty > 0.0) ||
      !std::isfinite(draw.repetition_penalty) || !std::isfinite(draw.frequency_penalty) ||
      !std::isfinite(draw.presence_penalty) || draw.top_k < 0)
    fail(DS_INVALID, "a draw's temperature, top_p, min_p, top_k or penalties are out of range");
  if (draw.num_top_logprobs < -1 || draw.num_top_logprobs > 20)
    fail(DS_INVALID, "num_top_logprobs must be between -1 and 20");
  if (draw.has_mask && (!draw.mask || draw.mask_bytes < (network.sizes.vocab_size + 7) / 8))
    fail(DS_INVALID, "a draw's mask of " + std::to_string(draw.mask_bytes) + " bytes does not cover " +
                         std::to_string(network.sizes.vocab_size) + " tokens");
  if (draw.has_mask && draw.late_mask) fail(DS_INVALID, "a draw has two masks");
}

void Engine::step(const ds_row *rows, int num_rows, ds_drawn *drawn) {
  if (num_rows < 0 || (num_rows && (!rows || !drawn))) fail(DS_INVALID, "rows are missing");
  if (!num_rows) return;
  std::vector<Task> tasks;
  std::vector<Sequence *> sequences;
  std::unordered_set<int64_t> seen;
  int64_t num_tokens = 0;
  for (int i = 0; i < num_rows; i++) {
    Sequence &sequence = pool().at(rows[i].sequence);
    if (num_rows > 1 && !seen.insert(rows[i].sequence).second) fail(DS_INVALID, "a sequence appears twice in one step");
    check(rows[i], sequence);
    num_tokens += rows[i].num_tokens;
    tasks.push_back({&sequence, &rows[i], &drawn[i]});
    sequences.push_back(&sequence);
  }
  if (num_tokens > kMostStepTokens) fail(DS_INVALID, std::to_string(num_tokens) + " tokens are too many for one step");
  pool().reserve(sequences);
  for (int i = 0; i < num_rows; i++) {
    std::memset(&drawn[i], 0, sizeof drawn[i]);
    drawn[i].token = -1;
  }

  Spread spread = Spread::kAlone;
  if (workers_.num_threads() > 1) {
    int size = 0;
    while (size + 1 < kNumSizes && int64_t{1} << (size + 1) <= num_tokens) size++;
    SpreadChooser &chooser = choosers_[num_rows > 1][size];
    spread = chooser.choose(num_rows > 1);
    const auto start = std::chrono::steady_clock::now();
    run(spread, tasks);
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
    chooser.report(spread, taken.count() / static_cast<double>(num_tokens));
  } else {
    run(spread, tasks);
  }
  last_spread_ = spread;
  for (Task &task : tasks) task.sequence->length += task.row->num_tokens;
}

void Engine::run(Spread spread, const std::vector<Task> &tasks) {
  std::atomic<bool> is_out_of_memory{false};
  const auto run_some = [&](int forward, const Task *some, int number, Workers &workers) {
    try {
      forwards_[static_cast<size_t>(forward)]->run(some, number, workers);
    } catch (const std::bad_alloc &) {
      is_out_of_memory = true;
    }
  };
  if (spread == Spread::kApart) {
    // The longest rows first, each to the thread with least to do.
    const int num_threads = workers_.num_threads();
    std::vector<std::vector<Task>> shares(static_cast<size_t>(num_threads));
    std::vector<int> loads(static_cast<size_t>(num_threads), 0);
    std::vector<Task> sorted = tasks;
    std::stable_sort(sorted.begin(), sorted.end(),
                     [](const Task &a, const Task &b) { return a.row->num_tokens > b.row->num_tokens; });
    for (const Task &task : sorted) {
      const auto least = std::min_element(loads.begin(), loads.end()) - loads.begin();
      shares[static_cast<size_t>(least)].push_back(task);
      loads[static_cast<size_t>(least)] += task.row->num_tokens;
    }
    workers_.run([&](int worker) {
      const std::vector<Task> &share = shares[static_cast<size_t>(worker)];
      if (!share.empty()) run_some(worker, share.data(), static_cast<int>(share.size()), alone_);
    });
  } else {
    run_some(0, tasks.data(), static_cast<int>(tasks.size()), spread == Spread::kTogether ? workers_ : alone_);
  }
  if (!is_out_of_memory) return;
  // Some layers have been written, others not: these sequences begin anew, and their lengths say so.
  for (const Task &task : tasks) pool_.lose(*task.sequence);
  fail(DS_OUT_OF_MEMORY, "the machine has no memory for this step; its sequences were reset to length 0");
}

ds_info Engine::info() const {
  ds_info info = {};
  info.weight_bytes = network.weight_bytes;
  info.active_weight_bytes = network.active_weight_bytes;
  info.has_huge_pages = has_huge_pages_;
  info.num_threads = last_spread_ == Spread::kAlone ? 1 : workers_.num_threads();
  std::strncpy(info.isa, kernels_.name, sizeof info.isa - 1);
  info.block_bytes = static_cast<int64_t>(pool_.block_bytes);
  info.slot_bytes = static_cast<int64_t>(pool_.slot_bytes);
  info.num_blocks = pool_.num_blocks;
  info.num_slots = pool_.num_slots;
  info.free_blocks = pool_.free_blocks();
  info.free_slots = pool_.free_slots();
  return info;
}

}  // namespace deepserve
