// The network of one checkpoint: its sizes, the plan of its layers, and where every weight lies.
//
// Matrices that read the same input are one product: their columns stand side by side. All packed weights and small
// tensors lie in one area in the order a step reads them.
#pragma once

#include <string>
#include <vector>

#include "deepserve_core.h"
#include "matrix.h"
#include "memory.h"

namespace deepserve {

// Raised inside the core, turned into a status at the ABI.
struct Fault {
  ds_status status;
  std::string message;
};

[[noreturn]] void fail(ds_status status, std::string message);

// Several published matrices that read one input.
struct Fused {
  int inputs = 0;
  std::vector<Matrix> matrices;
  std::vector<int> columns;  // of the output row, where each matrix's first column goes
  size_t stride = 0;         // columns of the output row, padding included
};

struct Compressor {
  int width = 0;      // of an entry
  int per_token = 0;  // numbers per token: width, or twice that where entries overlap
  int content = 0;    // where content and gate stand in the row of `of_input`
  int gate = 0;
  float *position_bias = nullptr;  // [ratio][per_token]
  float *norm = nullptr;
};

struct HyperConnection {
  float *fn = nullptr;            // [(2 + S) * S][S * d]
  float *base = nullptr;          // [(2 + S) * S]
  float *scale = nullptr;         // one per score
  float *stored_scale = nullptr;  // as published: one for reads, writes and carries each
};

struct Layer {
  ds_layer plan;
  HyperConnection attn_hyper, ffn_hyper;
  float *attn_norm = nullptr, *q_norm = nullptr, *kv_norm = nullptr, *sinks = nullptr, *ffn_norm = nullptr;
  Fused of_input;  // wq_a, wkv, compressors' content and gate, index weights
  int kv_column = 0, index_weights_column = 0;
  std::vector<Compressor> compressors;  // main, index
  Fused of_queries;                     // wq_b, index wq_b
  int index_queries_column = 0;
  std::vector<Fused> wo_a;  // one per group
  Fused wo_b;
  float *gate = nullptr, *gate_bias = nullptr;
  int32_t *gate_table = nullptr;  // [vocab][experts per token]
  Fused shared_w13, shared_w2;
  int shared_up_column = 0, up_column = 0;  // where w3 begins in the output rows
  std::vector<Fused> w13, w2;
};

class Network {
 public:
  Network(const ds_network &sizes, const ds_options &options);

  void put(ds_tensor tensor, int layer, int expert, const ds_array &array, const ds_array *scale);
  void seal();
  void save_packed(const std::string &path, const uint8_t key[32]) const;
  void load_packed(const std::string &path, const uint8_t key[32]);

  const float *embedding(int token, float *row) const;  // [hidden_size]; `row` is room for it

  ds_network sizes;
  std::vector<Layer> layers;
  Fused head;
  float *norm = nullptr;
  HyperConnection head_hyper;  // fn [S][S * d], base [S], scale [S]
  std::vector<float> frequencies[2];
  bool is_sealed = false;
  int64_t weight_bytes = 0, active_weight_bytes = 0;
  const uint8_t *area() const { return area_.data(); }

 private:
  // Rows [first_row, first_row + rows) of a published matrix, and the columns of a product that they become.
  struct Part {
    Fused *fused;
    int matrix, first_column, first_row, rows;
  };

  // Where one published tensor goes.
  struct Place {
    enum class Kind { kUnknown, kFloats, kMatrix, kEmbedding, kTable } kind = Kind::kUnknown;
    std::string name;
    std::vector<int64_t> shape;
    float **floats = nullptr;
    std::vector<Part> parts;
    int32_t **table = nullptr;
    bool is_put = false;
  };

  // One tensor of a product: which, how many of its rows, and how it is kept.
  struct Piece {
    ds_tensor tensor;
    int rows;
    ds_format format;
    int first_row = 0;
  };

  // Something that gets a place in the area; exactly one pointer is set.
  struct Allocation {
    float **floats;
    int32_t **integers;
    Fused *fused;
    size_t count;  // of numbers, or which matrix
  };

  void check_sizes() const;
  Place &place(ds_tensor tensor, int layer, int expert);
  Place &declare(Place::Kind kind, ds_tensor tensor, int layer, int expert, std::string name,
                 std::vector<int64_t> shape);
  void declare_floats(ds_tensor tensor, int layer, const char *name, std::vector<int64_t> shape, float **floats);
  void reserve_floats(float **floats, size_t count);
  // -> the output column of each piece
  std::vector<int> fuse(Fused &fused, int inputs, const std::vector<Piece> &pieces, int layer, int expert);
  void plan_hyper(HyperConnection &hyper, ds_tensor fn, const char *prefix, int layer);
  void plan_layer(int layer);
  void assign_memory();
  void put_matrix(Place &place, const ds_array &array, const ds_array *scale);
  void put_table(Place &place, const ds_array &array);
  void put_embedding(const Place &place, const ds_array &array);
  bool has_mapped_matrices() const;
  void count_bytes();

  ds_options options_;
  std::vector<Place> places_;  // [layer, -1 first][tensor], then [layer][expert][3]
  std::vector<Allocation> allocations_;
  Pages area_;
  size_t area_bytes_ = 0;
  ds_dtype embedding_type_ = DS_BF16;
  uint8_t *embedding_ = nullptr;
  const uint8_t *mapped_embedding_ = nullptr;
};

}  // namespace deepserve
