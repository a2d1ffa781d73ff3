// What the engine remembers of sequences: shared blocks of compressed history, and a private slot for the rest.
//
// A block covers DS_CHUNK_TOKENS tokens: per layer the entries that these tokens complete, and their index keys. Blocks
// are counted references; whoever writes to one owns it alone. A slot holds what is not append-only: per layer a ring
// of recent window rows, and rings of the compressors' raw inputs whose entry is not finished.
#pragma once

#include <cstdint>
#include <unordered_map>
#include <vector>

#include "memory.h"
#include "network.h"

namespace deepserve {

struct Sequence {
  int32_t slot = 0;
  int64_t length = 0;
  std::vector<int32_t> blocks;
};

// Where a layer's state lies in slots and blocks; offsets in bytes.
struct LayerState {
  struct OfCompressor {
    int tail_positions = 0;  // position p at p % tail_positions
    size_t tail = 0;         // slot: [tail_positions][content and gate]
    size_t tail_row_bytes = 0;
    size_t entries = 0;  // block: main: [entries per block][row_bytes]; index: groups of 16 keys
    int per_block = 0;   // a power of two: its logarithm beside it
    int per_block_log = 0;
  };
  size_t window = 0;  // slot: [ring][row_bytes]
  std::vector<OfCompressor> compressors;
};

class StatePool {
 public:
  static constexpr int kKeysPerGroupLog = 4, kKeysPerGroup = 1 << kKeysPerGroupLog;

  StatePool(const Network &network, ds_state_type type, int64_t memory_bytes);

  int64_t create();
  int64_t fork(int64_t id);
  void free(int64_t id);
  Sequence &at(int64_t id);  // raises DS_INVALID
  const Sequence &at(int64_t id) const;
  // Give each sequence a block of its own to write its next token into; all of them or none.
  void reserve(const std::vector<Sequence *> &sequences);
  // Give up what a sequence holds; it is empty then.
  void lose(Sequence &sequence);

  int64_t blob_bytes(const Sequence &sequence) const;
  void save(const Sequence &sequence, uint8_t *blob, int64_t size_bytes) const;
  int64_t load(const uint8_t *blob, int64_t size_bytes);

  uint8_t *slot(const Sequence &sequence) const {
    return slots_.data() + static_cast<size_t>(sequence.slot) * slot_bytes;
  }
  uint8_t *block(const Sequence &sequence, int64_t number) const {
    return blocks_.data() + static_cast<size_t>(sequence.blocks[static_cast<size_t>(number)]) * block_bytes;
  }
  void *window_row(const Sequence &sequence, int layer, int64_t position) const {
    return slot(sequence) + layers[layer].window + static_cast<size_t>(position % ring) * row_bytes;
  }
  void *entry_row(const Sequence &sequence, int layer, int64_t entry) const {
    const LayerState::OfCompressor &main = layers[layer].compressors[0];
    return block(sequence, entry >> main.per_block_log) + main.entries +
           static_cast<size_t>(entry & (main.per_block - 1)) * row_bytes;
  }
  uint8_t *key_group(const Sequence &sequence, int layer, int64_t group) const {
    const LayerState::OfCompressor &index = layers[layer].compressors[1];
    const int groups_log = index.per_block_log - kKeysPerGroupLog;
    return block(sequence, group >> groups_log) + index.entries +
           static_cast<size_t>(group & ((1 << groups_log) - 1)) * key_group_bytes;
  }
  float *tail_row(const Sequence &sequence, int layer, int compressor, int64_t position) const {
    const LayerState::OfCompressor &of = layers[layer].compressors[static_cast<size_t>(compressor)];
    return reinterpret_cast<float *>(slot(sequence) + of.tail +
                                     static_cast<size_t>(position % of.tail_positions) * of.tail_row_bytes);
  }

  const ds_state_type type;
  size_t stride = 0;  // elements of a stored row: head_dim rounded up to 32, zero beyond
  size_t row_bytes = 0;
  size_t key_group_bytes = 0;
  int ring = 0;  // positions of a window ring: a row's own block, and those its window reaches back into
  size_t block_bytes = 0, slot_bytes = 0;
  int64_t num_blocks = 0, num_slots = 0;
  std::vector<LayerState> layers;
  int64_t free_blocks() const { return static_cast<int64_t>(free_blocks_.size()) + num_blocks - next_block_; }
  int64_t free_slots() const { return static_cast<int64_t>(free_slots_.size()) + num_slots - next_slot_; }

 private:
  int32_t take_slot();
  void drop(int32_t block);
  int64_t add(Sequence sequence);
  template <typename Visit>
  void walk(int64_t position, const Visit &visit) const;

  const Network &network_;
  Pages blocks_, slots_;
  std::vector<int32_t> references_;
  std::vector<int32_t> free_blocks_, free_slots_;
  int64_t next_block_ = 0, next_slot_ = 0;  // never used from here on
  std::unordered_map<int64_t, Sequence> sequences_;
  int64_t num_created_ = 0;
};

}  // namespace deepserve
