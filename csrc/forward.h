// One step: rows of any mixture of sequences through the layers of the plan, from stored state.
//
// Every token is computed by itself, so a step may be split over several Forwards by rows, or one Forward may split its
// products over workers, and nothing changes but the time.
#pragma once

#include <vector>

#include "kernels.h"
#include "memory.h"
#include "network.h"
#include "state.h"
#include "workers.h"

namespace deepserve {

// One row of a step, checked; its sequence has a block to write to.
struct Task {
  Sequence *sequence;
  const ds_row *row;
  ds_drawn *drawn;
};

class Forward {
 public:
  Forward(const Network &network, const StatePool &pool, const Kernels &kernels);

  // Append the rows' tokens to the stored state and draw what is wanted; lengths are left to the caller.
  // Throws std::bad_alloc, after which the sequences' states are undefined.
  void run(const Task *tasks, int num_tasks, Workers &workers);

 private:
  struct Token {
    const Task *task;
    int32_t id;
    int64_t position;
    int64_t first;  // of its row: what was stored before
    int row;        // where its row begins among the step's tokens
  };
  struct Product {
    const Matrix *matrix;
    const Activations *x;
    int rows;
    float *out;
    size_t stride;
  };
  struct Visits {              // tokens and their experts, ordered by expert, then by token
    std::vector<int> experts;  // those that are visited, ascending
    std::vector<int> first;    // per visited expert, and the end
    int32_t *tokens;
    float *weights;
    int num;
  };
  // Room for one worker's attention.
  struct Reader {
    std::vector<const void *> rows;
    std::vector<const uint8_t *> groups;
    std::vector<int32_t> chosen;
    std::vector<float> scores, scratch;
    std::vector<float> queries, outputs, index_weights;
  };

  template <typename Work>
  void split(int count, int grain, const Work &work);
  void multiply(const std::vector<Product> &products);
  void multiply(const Fused &fused, const Activations &x, int rows, float *out, size_t stride);
  Activations activate(const float *x, size_t stride, int rows, int inputs,
                       std::initializer_list<const Fused *> readers);
  void mix_streams(const HyperConnection &hyper, const float *norm, float *mix, float *x, size_t stride);
  void attention(int layer, const float *x, size_t stride, float *y);
  void store_history(int layer, float *projected, size_t stride);
  void attend_token(int layer, int token, float *query_row, const float *projected, Reader &reader, float *out);
  void experts(int layer, const float *x, size_t stride, float *y);
  Visits route(const Layer &layer, const float *x, size_t stride);
  void finish(const Task *tasks, int num_tasks);
  void turn(int set, int64_t position, float *cos, float *sin) const;

  const Network &network_;
  const StatePool &pool_;
  const Kernels &kernels_;
  const ds_network &sizes_;
  Scratch scratch_;
  std::vector<float> head_scale_;  // 1 / sqrt(head_dim), once per element
  std::vector<Reader> readers_;
  // Of the step that runs:
  Workers *workers_ = nullptr;
  std::vector<Token> tokens_;
  int num_tokens_ = 0;
  float *streams_ = nullptr;
  float *cos_[2] = {}, *sin_[2] = {}, *back_[2] = {};  // [tokens][rope_dim]; back: the negated sine
};

}  // namespace deepserve
