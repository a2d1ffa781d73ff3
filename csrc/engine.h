// The engine behind the ABI: a network, its state memory, and the threads that step.
#pragma once

#include <memory>
#include <vector>

#include "forward.h"
#include "kernels.h"
#include "network.h"
#include "state.h"
#include "workers.h"

namespace deepserve {

// How a step is spread over threads. All ways give the same bits, so time alone decides.
enum class Spread {
  kAlone = 0,     // one thread
  kTogether = 1,  // all threads in every product: large matrices
  kApart = 2,     // each thread takes whole rows: many sequences on a small network
};

// Tries the ways that are possible for steps of one size, keeps the fastest, and tries again every now and then: on a
// machine that others use too, two threads can be slower than one.
class SpreadChooser {
 public:
  Spread choose(bool can_split_rows);
  void report(Spread used, double seconds_per_token);

 private:
  static constexpr int kTrials = 3, kStepsBetween = 400;

  Spread best_ = Spread::kAlone;
  std::vector<double> times_[3];
  int steps_left_ = 0;
};

class Engine {
 public:
  Engine(const ds_network &network, const ds_options &options);

  void seal();
  void load_packed(const std::string &path, const uint8_t key[32]);
  StatePool &pool();  // raises DS_INVALID before the network is whole
  const StatePool &pool() const;
  void step(const ds_row *rows, int num_rows, ds_drawn *drawn);
  ds_info info() const;

  Network network;

 private:
  void check(const ds_row &row, const Sequence &sequence) const;
  void check(const ds_draw &draw) const;
  void run(Spread spread, const std::vector<Task> &tasks);

  const Kernels &kernels_;
  StatePool pool_;
  Workers alone_{1};
  Workers workers_;
  std::vector<std::unique_ptr<Forward>> forwards_;  // one per thread
  static constexpr int kNumSizes = 16;
  SpreadChooser choosers_[2][kNumSizes];  // one row or several; by the logarithm of the number of tokens
  Spread last_spread_ = Spread::kAlone;
  int32_t has_huge_pages_ = -1;
};

}  // namespace deepserve
