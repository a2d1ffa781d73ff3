#include "state.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace deepserve {

namespace {

constexpr int64_t kMostBlocks = int64_t{1} << 24;
constexpr double kSlotShare = 1.0 / 3.0;  // of the memory: a slot is worth some ten blocks, and snapshots need both
constexpr int64_t kFewest = 4;

// The blob's header; little endian like everything else.
struct BlobHeader {
  char magic[8] = {'D', 'S', 'S', 'T', 'A', 'T', 'E', 1};
  int64_t position = 0;
  int32_t num_layers = 0, head_dim = 0, index_dim = 0, window = 0, row_type = 0, key_type = 0;
};

struct BlobLayer {
  int32_t ratio = 0, overlaps = 0, selects = 0;
};

}  // namespace

StatePool::StatePool(const Network &network, ds_state_type state_type, int64_t memory_bytes)
    : type(state_type), network_(network) {
  const ds_network &sizes = network.sizes;
  stride = static_cast<size_t>(sizes.head_dim + 31) / 32 * 32;
  row_bytes = stride * (type == DS_STATE_F32 ? 4 : 2);
  const size_t key_width = static_cast<size_t>(sizes.index_dim + 31) / 32 * 32;
  key_group_bytes = type == DS_STATE_F32 ? key_width * 64 : key_width * 16 + 64;
  ring = (1 + (sizes.window + DS_CHUNK_TOKENS - 1) / DS_CHUNK_TOKENS) * DS_CHUNK_TOKENS;
  for (const Layer &layer : network.layers) {
    LayerState state;
    state.window = slot_bytes;
    slot_bytes += aligned(static_cast<size_t>(ring) * row_bytes);
    for (size_t number = 0; number < layer.compressors.size(); number++) {
      LayerState::OfCompressor of;
      of.tail_positions = layer.plan.overlaps ? 2 * layer.plan.ratio : layer.plan.ratio;
      of.tail = slot_bytes;
      of.tail_row_bytes = static_cast<size_t>(layer.compressors[number].per_token) * 2 * sizeof(float);
      slot_bytes += aligned(static_cast<size_t>(of.tail_positions) * of.tail_row_bytes);
      of.per_block = DS_CHUNK_TOKENS / layer.plan.ratio;
      while (1 << of.per_block_log < of.per_block) of.per_block_log++;
      of.entries = block_bytes;
      block_bytes += number == 0 ? aligned(static_cast<size_t>(of.per_block) * row_bytes)
                                 : static_cast<size_t>(of.per_block / kKeysPerGroup) * key_group_bytes;
      state.compressors.push_back(of);
    }
    layers.push_back(state);
  }
  block_bytes = std::max(block_bytes, kAlignment);
  const auto share = [memory_bytes](double part, size_t size) {
    return static_cast<int64_t>(static_cast<double>(memory_bytes) * part) / static_cast<int64_t>(size);
  };
  num_slots = std::min(share(kSlotShare, slot_bytes), kMostBlocks);
  num_blocks = std::min(share(1 - kSlotShare, block_bytes), kMostBlocks);
  if (std::min(num_slots, num_blocks) < kFewest)
    fail(DS_INVALID, std::to_string(memory_bytes) + " bytes of state memory are too few, this model needs " +
                         std::to_string(3 * kFewest * static_cast<int64_t>(std::max(slot_bytes, block_bytes))));
  blocks_ = Pages(static_cast<size_t>(num_blocks) * block_bytes, false);
  slots_ = Pages(static_cast<size_t>(num_slots) * slot_bytes, false);
}

int64_t StatePool::add(Sequence sequence) {
  sequences_.emplace(++num_created_, std::move(sequence));
  return num_created_;
}

int64_t StatePool::create() {
  Sequence sequence;
  sequence.slot = take_slot();
  return add(std::move(sequence));
}

int64_t StatePool::fork(int64_t id) {
  const Sequence &original = at(id);
  Sequence copy = original;
  copy.slot = take_slot();
  std::memcpy(slot(copy), slot(original), slot_bytes);
  for (int32_t block : copy.blocks) references_[static_cast<size_t>(block)]++;
  return add(std::move(copy));
}

void StatePool::free(int64_t id) {
  Sequence &sequence = at(id);
  lose(sequence);
  free_slots_.push_back(sequence.slot);
  sequences_.erase(id);
}

void StatePool::lose(Sequence &sequence) {
  for (int32_t block : sequence.blocks) drop(block);
  sequence.blocks.clear();
  sequence.length = 0;
}

const Sequence &StatePool::at(int64_t id) const {
  const auto found = sequences_.find(id);
  if (found == sequences_.end()) fail(DS_INVALID, "no sequence " + std::to_string(id));
  return found->second;
}

Sequence &StatePool::at(int64_t id) { return const_cast<Sequence &>(static_cast<const StatePool *>(this)->at(id)); }

void StatePool::reserve(const std::vector<Sequence *> &sequences) {
  const auto number = [](const Sequence &sequence) { return static_cast<size_t>(sequence.length / DS_CHUNK_TOKENS); };
  std::vector<Sequence *> needy;
  for (Sequence *sequence : sequences) {
    const size_t at = number(*sequence);
    const bool can_write = at < sequence->blocks.size() && references_[static_cast<size_t>(sequence->blocks[at])] == 1;
    if (!can_write) needy.push_back(sequence);
  }
  if (static_cast<int64_t>(needy.size()) > free_blocks())
    fail(DS_OUT_OF_MEMORY, "state memory is full: " + std::to_string(free_blocks()) + " blocks free, " +
                               std::to_string(needy.size()) + " needed");
  for (Sequence *sequence : needy) {
    if (sequence->blocks.capacity() <= number(*sequence)) sequence->blocks.reserve(2 * number(*sequence) + 8);
    int32_t block;
    if (!free_blocks_.empty()) {
      block = free_blocks_.back();
      free_blocks_.pop_back();
      references_[static_cast<size_t>(block)] = 1;
    } else {
      references_.push_back(1);
      block = static_cast<int32_t>(next_block_++);
    }
    const size_t at = number(*sequence);
    if (at < sequence->blocks.size()) {
      const int32_t shared = sequence->blocks[at];
      std::memcpy(blocks_.data() + static_cast<size_t>(block) * block_bytes,
                  blocks_.data() + static_cast<size_t>(shared) * block_bytes, block_bytes);
      drop(shared);
      sequence->blocks[at] = block;
    } else {
      sequence->blocks.push_back(block);
    }
  }
}

int32_t StatePool::take_slot() {
  if (!free_slots_.empty()) {
    const int32_t slot = free_slots_.back();
    free_slots_.pop_back();
    return slot;
  }
  if (next_slot_ == num_slots)
    fail(DS_OUT_OF_MEMORY,
         "state memory is full: all " + std::to_string(num_slots) + " slots hold sequences or snapshots");
  return static_cast<int32_t>(next_slot_++);
}

void StatePool::drop(int32_t block) {
  if (--references_[static_cast<size_t>(block)] == 0) free_blocks_.push_back(block);
}

// Blobs. `walk` names every stored row in the blob's order: visit(kind, layer, compressor, position or entry).

namespace {
enum class Part { kWindow, kEntry, kKey, kTail };
}

template <typename Visit>
void StatePool::walk(int64_t position, const Visit &visit) const {
  for (int layer = 0; layer < network_.sizes.num_layers; layer++) {
    const ds_layer &plan = network_.layers[layer].plan;
    for (int64_t at = std::max<int64_t>(0, position - network_.sizes.window); at < position; at++)
      visit(Part::kWindow, layer, 0, at);
    for (int number = 0; number < static_cast<int>(network_.layers[layer].compressors.size()); number++) {
      const int64_t num_entries = position / plan.ratio;
      for (int64_t entry = 0; entry < num_entries; entry++)
        visit(number == 0 ? Part::kEntry : Part::kKey, layer, number, entry);
      const int64_t open = num_entries * plan.ratio - (plan.overlaps ? plan.ratio : 0);
      for (int64_t at = std::max<int64_t>(0, open); at < position; at++) visit(Part::kTail, layer, number, at);
    }
  }
}

int64_t StatePool::blob_bytes(const Sequence &sequence) const {
  const ds_network &sizes = network_.sizes;
  int64_t bytes = sizeof(BlobHeader) + sizes.num_layers * static_cast<int64_t>(sizeof(BlobLayer));
  const int64_t item = type == DS_STATE_F32 ? 4 : 2;
  const int64_t key_bytes = type == DS_STATE_F32 ? sizes.index_dim * 4 : sizes.index_dim + 4;
  walk(sequence.length, [&](Part part, int layer, int number, int64_t) {
    bytes += part == Part::kKey    ? key_bytes
             : part == Part::kTail ? network_.layers[layer].compressors[number].per_token * int64_t{8}
                                   : sizes.head_dim * item;
  });
  return bytes;
}

void StatePool::save(const Sequence &sequence, uint8_t *blob, int64_t size_bytes) const {
  if (size_bytes != blob_bytes(sequence)) fail(DS_INVALID, "the blob has another size than the sequence needs");
  const ds_network &sizes = network_.sizes;
  const auto put = [&blob](const void *data, size_t size) {
    std::memcpy(blob, data, size);
    blob += size;
  };
  BlobHeader header;
  header.position = sequence.length;
  header.num_layers = sizes.num_layers;
  header.head_dim = sizes.head_dim;
  header.index_dim = sizes.index_dim;
  header.window = sizes.window;
  header.row_type = type == DS_STATE_BF16;
  header.key_type = type == DS_STATE_BF16;
  put(&header, sizeof header);
  for (const Layer &layer : network_.layers) {
    const BlobLayer described = {layer.plan.ratio, layer.plan.overlaps, layer.plan.selects};
    put(&described, sizeof described);
  }
  const size_t row = static_cast<size_t>(sizes.head_dim) * (type == DS_STATE_F32 ? 4 : 2);
  const size_t padded = static_cast<size_t>(sizes.index_dim + 31) / 32 * 32;
  walk(sequence.length, [&](Part part, int layer, int number, int64_t at) {
    switch (part) {
      case Part::kWindow:
        put(window_row(sequence, layer, at), row);
        break;
      case Part::kEntry:
        put(entry_row(sequence, layer, at), row);
        break;
      case Part::kKey: {
        const uint8_t *group = key_group(sequence, layer, at / kKeysPerGroup);
        const size_t place = static_cast<size_t>(at % kKeysPerGroup);
        for (size_t i = 0; i < static_cast<size_t>(sizes.index_dim); i++) {
          if (type == DS_STATE_F32) {
            put(group + (i * 16 + place) * 4, 4);
          } else {
            const auto value = static_cast<uint8_t>(group[(i / 4) * 64 + place * 4 + i % 4] - 128);
            put(&value, 1);
          }
        }
        if (type != DS_STATE_F32) put(group + padded * 16 + place * 4, 4);
        break;
      }
      case Part::kTail:
        put(tail_row(sequence, layer, number, at), layers[layer].compressors[number].tail_row_bytes);
        break;
    }
  });
}

int64_t StatePool::load(const uint8_t *blob, int64_t size_bytes) {
  const ds_network &sizes = network_.sizes;
  BlobHeader header;
  const BlobHeader expected;
  if (size_bytes < static_cast<int64_t>(sizeof header)) fail(DS_INVALID, "the state blob ends within its header");
  std::memcpy(&header, blob, sizeof header);
  if (std::memcmp(header.magic, expected.magic, sizeof header.magic) != 0) fail(DS_INVALID, "not a state blob");
  const int32_t types = type == DS_STATE_BF16;
  if (header.num_layers != sizes.num_layers || header.head_dim != sizes.head_dim ||
      header.index_dim != sizes.index_dim || header.window != sizes.window)
    fail(DS_INVALID, "the state blob is of another network");
  if (header.row_type != types || header.key_type != types)
    fail(DS_INVALID, "the state blob holds other number types than this engine");
  if (header.position < 0 || header.position > sizes.max_context)
    fail(DS_INVALID, "the state blob's position " + std::to_string(header.position) + " is outside the context");
  Sequence shape;
  shape.length = header.position;
  if (size_bytes != blob_bytes(shape)) fail(DS_INVALID, "the state blob has another size than its position needs");
  const uint8_t *from = blob + sizeof header;
  for (const Layer &layer : network_.layers) {
    BlobLayer described;
    std::memcpy(&described, from, sizeof described);
    from += sizeof described;
    if (described.ratio != layer.plan.ratio || described.overlaps != layer.plan.overlaps ||
        described.selects != layer.plan.selects)
      fail(DS_INVALID, "the state blob is of another network");
  }

  const int64_t id = create();
  Sequence &sequence = at(id);
  try {
    for (int64_t first = 0; first < header.position; first += DS_CHUNK_TOKENS) {
      sequence.length = first;
      reserve({&sequence});
    }
  } catch (...) {
    free(id);
    throw;
  }
  sequence.length = header.position;
  const size_t item = type == DS_STATE_F32 ? 4 : 2;
  const size_t row = static_cast<size_t>(sizes.head_dim) * item;
  const size_t padded = static_cast<size_t>(sizes.index_dim + 31) / 32 * 32;
  const auto take = [&from](void *data, size_t size) {
    std::memcpy(data, from, size);
    from += size;
  };
  const auto take_row = [&](void *data) {
    take(data, row);
    std::memset(static_cast<uint8_t *>(data) + row, 0, row_bytes - row);
  };
  walk(header.position, [&](Part part, int layer, int number, int64_t at) {
    switch (part) {
      case Part::kWindow:
        take_row(window_row(sequence, layer, at));
        break;
      case Part::kEntry:
        take_row(entry_row(sequence, layer, at));
        break;
      case Part::kKey: {
        uint8_t *group = key_group(sequence, layer, at / kKeysPerGroup);
        const size_t place = static_cast<size_t>(at % kKeysPerGroup);
        for (size_t i = 0; i < padded; i++) {
          const bool is_given = i < static_cast<size_t>(sizes.index_dim);
          if (type == DS_STATE_F32) {
            float value = 0.0f;
            if (is_given) take(&value, 4);
            std::memcpy(group + (i * 16 + place) * 4, &value, 4);
          } else {
            uint8_t value = 0;
            if (is_given) take(&value, 1);
            if (value == 128) value = 129;  // -128 is not a value kernels may meet; -127 is what rounding gives
            group[(i / 4) * 64 + place * 4 + i % 4] = static_cast<uint8_t>(value + 128);
          }
        }
        if (type != DS_STATE_F32) take(group + padded * 16 + place * 4, 4);
        break;
      }
      case Part::kTail:
        take(tail_row(sequence, layer, number, at), layers[layer].compressors[number].tail_row_bytes);
        break;
    }
  });
  return id;
}

}  // namespace deepserve
