#include "network.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <map>
#include <utility>

namespace deepserve {

namespace {

constexpr int64_t kLargestSize = int64_t{1} << 24;  // of any single size; products of two then fit everywhere
constexpr int64_t kMostLayers = int64_t{1} << 12;
constexpr int64_t kMostExperts = int64_t{1} << 14;       // of a layer, and
constexpr int64_t kMostLayerExperts = int64_t{1} << 18;  // of all layers; published networks have up to 2^15
constexpr size_t kLargestArea = size_t{1} << 47;         // what processors address; sums of sizes stay far from 2^64
constexpr int kMaxStreams = 8;
constexpr int kIndexGroup = 16;

size_t item_bytes(int dtype) {
  switch (dtype) {
    case DS_F64:
    case DS_I64:
      return 8;
    case DS_F32:
    case DS_I32:
      return 4;
    case DS_F16:
    case DS_BF16:
      return 2;
    default:
      return 1;
  }
}

int columns_per_byte(int dtype) { return dtype == DS_FP4 ? 2 : 1; }

bool is_plain_float(int dtype) { return dtype == DS_F32 || dtype == DS_F16 || dtype == DS_BF16 || dtype == DS_F64; }

std::string spell(const std::vector<int64_t> &shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); i++) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

// Compare an array with what it must be; `packing` numbers of the last dimension share a byte.
void check_array(const std::string &name, const ds_array &array, std::vector<int64_t> shape, int packing) {
  if (array.rank < 0 || array.rank > 3) fail(DS_CHECKPOINT, name + " has an impossible rank");
  const std::vector<int64_t> given(array.shape, array.shape + array.rank);
  if (shape.back() % packing) fail(DS_CHECKPOINT, name + " cannot be FP4, its inputs are an odd number");
  shape.back() /= packing;
  if (given != shape) fail(DS_CHECKPOINT, name + " is " + spell(given) + ", must be " + spell(shape));
  int64_t count = 1;
  for (int64_t size : shape) count *= size;
  const int64_t needed = count * static_cast<int64_t>(item_bytes(array.dtype));
  if (array.size_bytes != needed || (!array.data && needed))
    fail(DS_CHECKPOINT,
         name + " has " + std::to_string(array.size_bytes) + " bytes, must have " + std::to_string(needed));
}

uint64_t mix_checksum(const uint8_t *data, size_t size_bytes) {
  // Four independent streams of multiply and rotate: memory is the limit. The sizes are multiples of 64.
  uint64_t state[4] = {0x9E3779B97F4A7C15u, 0xBF58476D1CE4E5B9u, 0x94D049BB133111EBu, 0xD1B54A32D192ED03u};
  for (size_t at = 0; at + 32 <= size_bytes; at += 32) {
    for (int i = 0; i < 4; i++) {
      uint64_t word;
      std::memcpy(&word, data + at + 8 * i, 8);
      state[i] = (state[i] ^ word) * 0x9FB21C651E98DF25u;
      state[i] ^= state[i] >> 32;
    }
  }
  uint64_t result = size_bytes;
  for (uint64_t part : state) result = (result ^ part) * 0xBF58476D1CE4E5B9u ^ result >> 29;
  return result;
}

struct PackedHeader {
  char magic[8] = {'D', 'S', 'P', 'A', 'C', 'K', 'E', 'D'};
  uint64_t layout = 2;  // raised whenever a packed layout or the order of weights changes
  uint8_t key[32] = {};
  uint64_t size_bytes = 0;
  int64_t weight_bytes = 0, active_weight_bytes = 0, embedding_type = 0;
  uint8_t unused[40] = {};  // the checksum takes whole 64 bytes
  uint64_t checksum = 0;    // of the area and of everything above
};
static_assert(sizeof(PackedHeader) == 128, "no padding");

uint64_t packed_checksum(PackedHeader header, const uint8_t *area) {
  header.checksum = mix_checksum(area, header.size_bytes);
  return mix_checksum(reinterpret_cast<const uint8_t *>(&header), sizeof header);
}

}  // namespace

void fail(ds_status status, std::string message) { throw Fault{status, std::move(message)}; }

Network::Network(const ds_network &given, const ds_options &options) : sizes(given), options_(options) {
  check_sizes();
  for (int set = 0; set < 2; set++) {
    frequencies[set].assign(given.frequencies[set], given.frequencies[set] + sizes.rope_dim / 2);
    sizes.frequencies[set] = nullptr;
  }
  layers.resize(sizes.num_layers);
  for (int i = 0; i < sizes.num_layers; i++) layers[i].plan = given.layers[i];
  sizes.layers = nullptr;
  const int64_t num_places = static_cast<int64_t>(sizes.num_layers + 1) * DS_NUM_TENSORS +
                             static_cast<int64_t>(sizes.num_layers) * sizes.num_experts * 3;
  places_.resize(static_cast<size_t>(num_places));

  const int d = sizes.hidden_size, streams = sizes.streams;
  declare(Place::Kind::kEmbedding, DS_EMBED, -1, 0, "embed.weight", {sizes.vocab_size, d});
  for (int layer = 0; layer < sizes.num_layers; layer++) plan_layer(layer);
  declare_floats(DS_HC_HEAD_FN, -1, "hc_head_fn", {streams, streams * d}, &head_hyper.fn);
  declare_floats(DS_HC_HEAD_BASE, -1, "hc_head_base", {streams}, &head_hyper.base);
  declare_floats(DS_HC_HEAD_SCALE, -1, "hc_head_scale", {1}, &head_hyper.stored_scale);
  reserve_floats(&head_hyper.scale, streams);
  declare_floats(DS_NORM, -1, "norm.weight", {d}, &norm);
  fuse(head, d, {{DS_HEAD, sizes.vocab_size, static_cast<ds_format>(options.head_format)}}, -1, 0);
  assign_memory();
}

void Network::check_sizes() const {
  // clang-format off
  const std::pair<const char *, int64_t> positive[] = {
      {"vocab_size", sizes.vocab_size},       {"hidden_size", sizes.hidden_size},
      {"num_layers", sizes.num_layers},       {"num_heads", sizes.num_heads},
      {"head_dim", sizes.head_dim},           {"rope_dim", sizes.rope_dim},
      {"q_rank", sizes.q_rank},               {"o_groups", sizes.o_groups},
      {"o_rank", sizes.o_rank},               {"window", sizes.window},
      {"index_heads", sizes.index_heads},     {"index_dim", sizes.index_dim},
      {"index_topk", sizes.index_topk},       {"num_experts", sizes.num_experts},
      {"experts_per_token", sizes.experts_per_token}, {"expert_width", sizes.expert_width},
      {"streams", sizes.streams},             {"sinkhorn_steps", sizes.sinkhorn_steps},
      {"max_context", sizes.max_context}};
  // clang-format on
  for (const auto &[name, size] : positive)
    if (size < 1 || size > kLargestSize)
      fail(DS_INVALID, std::string(name) + " must be between 1 and " + std::to_string(kLargestSize) + ", not " +
                           std::to_string(size));
  if (sizes.streams > kMaxStreams)
    fail(DS_INVALID,
         "at most " + std::to_string(kMaxStreams) + " streams are supported, not " + std::to_string(sizes.streams));
  if (sizes.rope_dim % 2 || sizes.rope_dim > sizes.head_dim || sizes.rope_dim > sizes.index_dim)
    fail(DS_INVALID, "rope_dim must be even and fit in head_dim and index_dim");
  if (sizes.num_heads % sizes.o_groups) fail(DS_INVALID, "o_groups must divide num_heads");
  if (sizes.experts_per_token > sizes.num_experts) fail(DS_INVALID, "experts_per_token exceeds num_experts");
  const std::pair<const char *, int64_t> products[] = {
      {"num_heads * head_dim", int64_t{sizes.num_heads} * sizes.head_dim},
      {"index_heads * index_dim", int64_t{sizes.index_heads} * sizes.index_dim},
      {"o_groups * o_rank", int64_t{sizes.o_groups} * sizes.o_rank},
      {"streams * hidden_size", int64_t{sizes.streams} * sizes.hidden_size}};
  const auto limit = [](const char *name, int64_t size, int64_t most) {
    if (size > most)
      fail(DS_INVALID,
           std::string(name) + " must be at most " + std::to_string(most) + ", not " + std::to_string(size));
  };
  for (const auto &[name, size] : products) limit(name, size, kLargestSize);
  limit("num_layers", sizes.num_layers, kMostLayers);
  limit("num_experts", sizes.num_experts, kMostExperts);
  limit("num_layers * num_experts", int64_t{sizes.num_layers} * sizes.num_experts, kMostLayerExperts);
  for (float positive_constant : {sizes.swiglu_limit, sizes.hc_eps, sizes.norm_eps})
    if (!(positive_constant > 0.0f) || !std::isfinite(positive_constant))
      fail(DS_INVALID, "swiglu_limit, hc_eps and norm_eps must be positive");
  if (!sizes.layers || !sizes.frequencies[0] || !sizes.frequencies[1])
    fail(DS_INVALID, "layers and frequencies must be given");
  for (int i = 0; i < sizes.num_layers; i++) {
    const ds_layer &layer = sizes.layers[i];
    const std::string where = "layer " + std::to_string(i) + ": ";
    if (layer.ratio < 0 || layer.ratio == 1 || (layer.ratio && DS_CHUNK_TOKENS % layer.ratio))
      fail(DS_INVALID, where + "compress ratio " + std::to_string(layer.ratio) + " does not divide " +
                           std::to_string(DS_CHUNK_TOKENS));
    if (!layer.ratio && (layer.overlaps || layer.selects))
      fail(DS_INVALID, where + "a layer without compressor has nothing to overlap or to select");
    if (layer.selects && DS_CHUNK_TOKENS / layer.ratio % kIndexGroup)
      fail(DS_INVALID,
           where + "an indexer needs a compress ratio of at most " + std::to_string(DS_CHUNK_TOKENS / kIndexGroup));
    if (layer.rotation != 0 && layer.rotation != 1) fail(DS_INVALID, where + "rotation must be 0 or 1");
  }
  for (int format : {options_.dense_format, options_.expert_format, options_.head_format})
    if (format < 0 || format >= DS_NUM_FORMATS) fail(DS_INVALID, "unknown weight format " + std::to_string(format));
  if (options_.state_type != DS_STATE_F32 && options_.state_type != DS_STATE_BF16)
    fail(DS_INVALID, "unknown state type " + std::to_string(options_.state_type));
}

// The plan

Network::Place &Network::place(ds_tensor tensor, int layer, int expert) {
  if (layer < -1 || layer >= sizes.num_layers || tensor < 0 || tensor >= DS_NUM_TENSORS)
    fail(DS_INVALID, "no tensor " + std::to_string(tensor) + " in layer " + std::to_string(layer));
  if (tensor == DS_EXPERT_W1 || tensor == DS_EXPERT_W2 || tensor == DS_EXPERT_W3) {
    if (layer < 0 || expert < 0 || expert >= sizes.num_experts)
      fail(DS_INVALID, "no expert " + std::to_string(expert) + " in layer " + std::to_string(layer));
    const size_t base = static_cast<size_t>(sizes.num_layers + 1) * DS_NUM_TENSORS;
    return places_[base + (static_cast<size_t>(layer) * sizes.num_experts + expert) * 3 + (tensor - DS_EXPERT_W1)];
  }
  return places_[static_cast<size_t>(layer + 1) * DS_NUM_TENSORS + tensor];
}

Network::Place &Network::declare(Place::Kind kind, ds_tensor tensor, int layer, int expert, std::string name,
                                 std::vector<int64_t> shape) {
  Place &declared = place(tensor, layer, expert);
  declared.kind = kind;
  declared.name = layer < 0 ? std::move(name) : "layers." + std::to_string(layer) + "." + name;
  declared.shape = std::move(shape);
  return declared;
}

void Network::reserve_floats(float **floats, size_t count) {
  allocations_.push_back({floats, nullptr, nullptr, count});
}

void Network::declare_floats(ds_tensor tensor, int layer, const char *name, std::vector<int64_t> shape,
                             float **floats) {
  size_t count = 1;
  for (int64_t size : shape) count *= static_cast<size_t>(size);
  declare(Place::Kind::kFloats, tensor, layer, 0, name, std::move(shape)).floats = floats;
  reserve_floats(floats, count);
}

std::vector<int> Network::fuse(Fused &fused, int inputs, const std::vector<Piece> &pieces, int layer, int expert) {
  static const std::map<ds_tensor, const char *> kNames = {{DS_HEAD, "head.weight"},
                                                           {DS_WQ_A, "attn.wq_a.weight"},
                                                           {DS_WKV, "attn.wkv.weight"},
                                                           {DS_WQ_B, "attn.wq_b.weight"},
                                                           {DS_WO_A, "attn.wo_a.weight"},
                                                           {DS_WO_B, "attn.wo_b.weight"},
                                                           {DS_COMPRESSOR_WKV, "attn.compressor.wkv.weight"},
                                                           {DS_COMPRESSOR_WGATE, "attn.compressor.wgate.weight"},
                                                           {DS_INDEX_WQ_B, "attn.indexer.wq_b.weight"},
                                                           {DS_INDEX_WEIGHTS, "attn.indexer.weights_proj.weight"},
                                                           {DS_INDEX_WKV, "attn.indexer.compressor.wkv.weight"},
                                                           {DS_INDEX_WGATE, "attn.indexer.compressor.wgate.weight"},
                                                           {DS_SHARED_W1, "ffn.shared_experts.w1.weight"},
                                                           {DS_SHARED_W2, "ffn.shared_experts.w2.weight"},
                                                           {DS_SHARED_W3, "ffn.shared_experts.w3.weight"}};
  static const std::map<ds_tensor, const char *> kExpertNames = {
      {DS_EXPERT_W1, "w1"}, {DS_EXPERT_W2, "w2"}, {DS_EXPERT_W3, "w3"}};

  fused.inputs = inputs;
  std::vector<std::pair<int, int>> where;  // matrix, first column in it
  for (const Piece &piece : pieces) {
    int matrix = -1;
    const bool is_mapped = piece.format >= DS_FORMAT_MAPPED_BF16;
    for (int i = 0; i < static_cast<int>(fused.matrices.size()) && !is_mapped; i++)
      if (fused.matrices[i].format == piece.format) matrix = i;
    if (matrix < 0) {
      matrix = static_cast<int>(fused.matrices.size());
      fused.matrices.emplace_back();
      fused.matrices.back().format = piece.format;
      fused.matrices.back().inputs = inputs;
    }
    int &outputs = fused.matrices[matrix].outputs;
    // A block of FP8 has one scale, so it holds columns of one tensor only.
    if (piece.format == DS_FORMAT_FP8) outputs = (outputs + kBlockColumns - 1) / kBlockColumns * kBlockColumns;
    where.emplace_back(matrix, outputs);
    outputs += piece.rows;

    const auto found = kNames.find(piece.tensor);
    std::string name = found != kNames.end()
                           ? found->second
                           : "ffn.experts." + std::to_string(expert) + "." + kExpertNames.at(piece.tensor) + ".weight";
    Place &declared = place(piece.tensor, layer, expert);
    const int64_t rows = piece.first_row + piece.rows;  // the last piece of a split tensor leaves the whole number
    std::vector<Part> parts = std::move(declared.parts);
    parts.push_back({&fused, matrix, where.back().second, piece.first_row, piece.rows});
    declare(Place::Kind::kMatrix, piece.tensor, layer, expert, std::move(name), {rows, inputs}).parts =
        std::move(parts);
  }
  for (int i = 0; i < static_cast<int>(fused.matrices.size()); i++) {
    lay_out(fused.matrices[i]);
    fused.columns.push_back(static_cast<int>(fused.stride));
    fused.stride += static_cast<size_t>(fused.matrices[i].num_blocks) * kBlockColumns;
    if (fused.matrices[i].is_packed()) allocations_.push_back({nullptr, nullptr, &fused, static_cast<size_t>(i)});
  }
  std::vector<int> columns;
  for (const auto &[matrix, first_column] : where) columns.push_back(fused.columns[matrix] + first_column);
  return columns;
}

void Network::plan_hyper(HyperConnection &hyper, ds_tensor fn, const char *prefix, int layer) {
  const int streams = sizes.streams, scores = (2 + streams) * streams;
  const std::string name = prefix;
  declare_floats(fn, layer, (name + "_fn").c_str(), {scores, int64_t{streams} * sizes.hidden_size}, &hyper.fn);
  declare_floats(static_cast<ds_tensor>(fn + 1), layer, (name + "_base").c_str(), {scores}, &hyper.base);
  declare_floats(static_cast<ds_tensor>(fn + 2), layer, (name + "_scale").c_str(), {3}, &hyper.stored_scale);
  reserve_floats(&hyper.scale, scores);
}

void Network::plan_layer(int number) {
  Layer &layer = layers[number];
  const ds_layer &plan = layer.plan;
  const int d = sizes.hidden_size, width = sizes.head_dim, experts = sizes.num_experts;
  const auto dense = static_cast<ds_format>(options_.dense_format);
  const auto of_experts = static_cast<ds_format>(options_.expert_format);
  // Published as bf16, and small: less would not be noticed in speed.
  const ds_format small = dense == DS_FORMAT_F32           ? DS_FORMAT_F32
                          : dense >= DS_FORMAT_MAPPED_BF16 ? DS_FORMAT_MAPPED_BF16
                                                           : DS_FORMAT_BF16;
  plan_hyper(layer.attn_hyper, DS_HC_ATTN_FN, "hc_attn", number);
  declare_floats(DS_ATTN_NORM, number, "attn_norm.weight", {d}, &layer.attn_norm);

  std::vector<Piece> pieces = {{DS_WQ_A, sizes.q_rank, dense}, {DS_WKV, width, dense}};
  const auto add_compressor = [&](int entry_width, ds_tensor content, ds_tensor gate) {
    Compressor compressor;
    compressor.width = entry_width;
    compressor.per_token = plan.overlaps ? 2 * entry_width : entry_width;
    pieces.push_back({content, compressor.per_token, small});
    pieces.push_back({gate, compressor.per_token, small});
    layer.compressors.push_back(compressor);
  };
  if (plan.ratio) add_compressor(width, DS_COMPRESSOR_WKV, DS_COMPRESSOR_WGATE);
  if (plan.selects) {
    add_compressor(sizes.index_dim, DS_INDEX_WKV, DS_INDEX_WGATE);
    pieces.push_back({DS_INDEX_WEIGHTS, sizes.index_heads, small});
  }
  std::vector<int> columns = fuse(layer.of_input, d, pieces, number, 0);
  layer.kv_column = columns[1];
  for (size_t i = 0; i < layer.compressors.size(); i++) {
    Compressor &compressor = layer.compressors[i];
    compressor.content = columns[2 + 2 * i];
    compressor.gate = columns[3 + 2 * i];
    const bool is_main = i == 0;
    declare_floats(is_main ? DS_COMPRESSOR_APE : DS_INDEX_APE, number,
                   is_main ? "attn.compressor.ape" : "attn.indexer.compressor.ape", {plan.ratio, compressor.per_token},
                   &compressor.position_bias);
    declare_floats(is_main ? DS_COMPRESSOR_NORM : DS_INDEX_NORM, number,
                   is_main ? "attn.compressor.norm.weight" : "attn.indexer.compressor.norm.weight", {compressor.width},
                   &compressor.norm);
  }
  if (plan.selects) layer.index_weights_column = columns.back();

  declare_floats(DS_Q_NORM, number, "attn.q_norm.weight", {sizes.q_rank}, &layer.q_norm);
  declare_floats(DS_KV_NORM, number, "attn.kv_norm.weight", {width}, &layer.kv_norm);
  declare_floats(DS_ATTN_SINK, number, "attn.attn_sink", {sizes.num_heads}, &layer.sinks);
  pieces = {{DS_WQ_B, sizes.num_heads * width, dense}};
  if (plan.selects) pieces.push_back({DS_INDEX_WQ_B, sizes.index_heads * sizes.index_dim, dense});
  columns = fuse(layer.of_queries, sizes.q_rank, pieces, number, 0);
  if (plan.selects) layer.index_queries_column = columns[1];

  // Where groups share a block of FP8 scales they cannot be cut apart; bf16 holds the same values and multiplies alike.
  const bool is_fp8 = dense == DS_FORMAT_FP8 || dense == DS_FORMAT_MAPPED_FP8;
  const ds_format grouped = is_fp8 && sizes.o_groups > 1 && sizes.o_rank % 128 ? DS_FORMAT_BF16 : dense;
  layer.wo_a.resize(sizes.o_groups);
  for (int group = 0; group < sizes.o_groups; group++)
    fuse(layer.wo_a[group], sizes.num_heads / sizes.o_groups * width,
         {{DS_WO_A, sizes.o_rank, grouped, group * sizes.o_rank}}, number, 0);
  fuse(layer.wo_b, sizes.o_groups * sizes.o_rank, {{DS_WO_B, d, dense}}, number, 0);

  plan_hyper(layer.ffn_hyper, DS_HC_FFN_FN, "hc_ffn", number);
  declare_floats(DS_FFN_NORM, number, "ffn_norm.weight", {d}, &layer.ffn_norm);
  declare_floats(DS_GATE, number, "ffn.gate.weight", {experts, d}, &layer.gate);
  if (plan.is_hash_routed) {
    declare(Place::Kind::kTable, DS_GATE_TABLE, number, 0, "ffn.gate.tid2eid",
            {sizes.vocab_size, sizes.experts_per_token})
        .table = &layer.gate_table;
    allocations_.push_back(
        {nullptr, &layer.gate_table, nullptr, static_cast<size_t>(sizes.vocab_size) * sizes.experts_per_token});
  } else {
    declare_floats(DS_GATE_BIAS, number, "ffn.gate.bias", {experts}, &layer.gate_bias);
  }
  const int hidden = sizes.expert_width;
  columns = fuse(layer.shared_w13, d, {{DS_SHARED_W1, hidden, dense}, {DS_SHARED_W3, hidden, dense}}, number, 0);
  layer.shared_up_column = columns[1];
  fuse(layer.shared_w2, hidden, {{DS_SHARED_W2, d, dense}}, number, 0);
  layer.w13.resize(experts);
  layer.w2.resize(experts);
  for (int expert = 0; expert < experts; expert++) {
    columns = fuse(layer.w13[expert], d, {{DS_EXPERT_W1, hidden, of_experts}, {DS_EXPERT_W3, hidden, of_experts}},
                   number, expert);
    layer.up_column = columns[1];
    fuse(layer.w2[expert], hidden, {{DS_EXPERT_W2, d, of_experts}}, number, expert);
  }
}

void Network::assign_memory() {
  const auto size_of = [](const Allocation &item) {
    if (!item.fused) return aligned(item.count * 4);
    const Matrix &matrix = item.fused->matrices[item.count];
    return aligned(static_cast<size_t>(matrix.num_blocks) * matrix.block_bytes);
  };
  // The embedding's type is known when it comes; room for the wider one costs only addresses.
  area_bytes_ = aligned(static_cast<size_t>(sizes.vocab_size) * sizes.hidden_size * 4);
  for (const Allocation &item : allocations_) {
    area_bytes_ += size_of(item);
    if (area_bytes_ > kLargestArea) throw std::bad_alloc();
  }
  area_ = Pages(area_bytes_, true);
  uint8_t *next = area_.data();
  for (const Allocation &item : allocations_) {
    if (item.floats) *item.floats = reinterpret_cast<float *>(next);
    if (item.integers) *item.integers = reinterpret_cast<int32_t *>(next);
    if (item.fused) item.fused->matrices[item.count].data = next;
    next += size_of(item);
  }
  embedding_ = next;
}

// Taking tensors in

void Network::put(ds_tensor tensor, int layer, int expert, const ds_array &array, const ds_array *scale) {
  if (is_sealed) fail(DS_INVALID, "the network is sealed, nothing can be put into it");
  Place &into = place(tensor, layer, expert);
  if (into.kind == Place::Kind::kUnknown)
    fail(DS_CHECKPOINT, "layer " + std::to_string(layer) + " has no tensor " + std::to_string(tensor));
  if (into.is_put) fail(DS_CHECKPOINT, into.name + " is given twice");
  if (array.dtype < 0 || array.dtype > DS_I64) fail(DS_CHECKPOINT, into.name + " has an unknown type");
  switch (into.kind) {
    case Place::Kind::kFloats: {
      check_array(into.name, array, into.shape, 1);
      if (!is_plain_float(array.dtype)) fail(DS_CHECKPOINT, into.name + " must be stored as floating point numbers");
      Source source;
      source.dtype = static_cast<ds_dtype>(array.dtype);
      source.rows = static_cast<int>(into.shape[0]);
      source.columns = into.shape.size() > 1 ? static_cast<int>(into.shape[1]) : 1;
      source.data = static_cast<const uint8_t *>(array.data);
      if (has_bad_values(source)) fail(DS_CHECKPOINT, into.name + " holds values that are not finite");
      dequantise(source, 0, source.rows, *into.floats);
      break;
    }
    case Place::Kind::kMatrix:
      put_matrix(into, array, scale);
      break;
    case Place::Kind::kEmbedding:
      put_embedding(into, array);
      break;
    case Place::Kind::kTable:
      put_table(into, array);
      break;
    case Place::Kind::kUnknown:
      break;
  }
  into.is_put = true;
}

void Network::put_matrix(Place &into, const ds_array &array, const ds_array *scale) {
  check_array(into.name, array, into.shape, columns_per_byte(array.dtype));
  const int64_t rows = into.shape[0], columns = into.shape[1];
  Source source;
  source.dtype = static_cast<ds_dtype>(array.dtype);
  source.rows = static_cast<int>(rows);
  source.columns = static_cast<int>(columns);
  source.data = static_cast<const uint8_t *>(array.data);
  const bool has_scales = array.dtype == DS_FP4 || array.dtype == DS_F8_E4M3;
  if (has_scales) {
    if (!scale) fail(DS_CHECKPOINT, into.name + " needs scales");
    const bool is_fp4 = array.dtype == DS_FP4;
    if (is_fp4 && columns % 32) fail(DS_CHECKPOINT, into.name + " is FP4, so its inputs must be a multiple of 32");
    if (scale->dtype != DS_F8_E8M0 && (is_fp4 || scale->dtype != DS_F32))
      fail(DS_CHECKPOINT, into.name + ": the scales must be E8M0" + (is_fp4 ? "" : " or F32"));
    check_array(into.name + "'s scale", *scale,
                is_fp4 ? std::vector<int64_t>{rows, columns / 32}
                       : std::vector<int64_t>{(rows + 127) / 128, (columns + 127) / 128},
                1);
    source.scales = static_cast<const uint8_t *>(scale->data);
    source.scale_dtype = static_cast<ds_dtype>(scale->dtype);
  } else if (!is_plain_float(array.dtype)) {
    fail(DS_CHECKPOINT, into.name + " must be stored as floating point numbers, FP8 or FP4");
  }

  for (const Part &part : into.parts) {
    Matrix &matrix = part.fused->matrices[part.matrix];
    if (matrix.is_packed()) continue;
    const bool fits =
        (matrix.format == DS_FORMAT_MAPPED_BF16 && array.dtype == DS_BF16) ||
        (matrix.format == DS_FORMAT_MAPPED_FP4 && array.dtype == DS_FP4) ||
        (matrix.format == DS_FORMAT_MAPPED_FP8 && array.dtype == DS_F8_E4M3 && scale->dtype == DS_F8_E8M0);
    if (!fits) fail(DS_CHECKPOINT, into.name + " is stored in another type than the mapped format needs");
    const int64_t row_bytes = columns * static_cast<int64_t>(item_bytes(array.dtype)) / columns_per_byte(array.dtype);
    matrix.data = source.data + part.first_row * row_bytes;
    matrix.row_bytes = static_cast<size_t>(row_bytes);
    if (has_scales) {
      const bool is_fp4 = array.dtype == DS_FP4;
      matrix.scale_row_bytes = static_cast<size_t>(is_fp4 ? columns / 32 : (columns + 127) / 128);
      matrix.scales = source.scales + (is_fp4 ? part.first_row : part.first_row / 128) * matrix.scale_row_bytes;
      const size_t count = static_cast<size_t>(scale->size_bytes);
      if (std::memchr(source.scales, 255, count))
        fail(DS_CHECKPOINT, into.name + "'s scale holds values that are not numbers");
    }
  }
  const bool has_packed_part = std::any_of(into.parts.begin(), into.parts.end(), [](const Part &part) {
    return part.fused->matrices[part.matrix].is_packed();
  });
  if (!has_packed_part) return;
  if (has_bad_values(source)) fail(DS_CHECKPOINT, into.name + " or its scale holds values that are not finite");
  std::vector<float> rows_of_part;
  for (const Part &part : into.parts) {
    const Matrix &matrix = part.fused->matrices[part.matrix];
    Source of_part = source;
    of_part.rows = part.rows;
    if (part.first_row) {
      if (array.dtype == DS_F8_E4M3 && part.first_row % 128) {
        // The part begins within a block of scales: only its exact values can be cut out.
        rows_of_part.resize(static_cast<size_t>(part.rows) * columns);
        dequantise(source, part.first_row, part.rows, rows_of_part.data());
        of_part = Source();
        of_part.rows = part.rows;
        of_part.columns = source.columns;
        of_part.data = reinterpret_cast<const uint8_t *>(rows_of_part.data());
      } else {
        const int64_t row_bytes =
            columns * static_cast<int64_t>(item_bytes(array.dtype)) / columns_per_byte(array.dtype);
        of_part.data += part.first_row * row_bytes;
        if (array.dtype == DS_FP4) of_part.scales += part.first_row * (columns / 32);
        if (array.dtype == DS_F8_E4M3)
          of_part.scales += static_cast<int64_t>(part.first_row / 128) * ((columns + 127) / 128) *
                            static_cast<int64_t>(item_bytes(scale->dtype));
      }
    }
    pack(of_part, matrix, part.first_column, const_cast<uint8_t *>(matrix.data));
  }
}

void Network::put_table(Place &into, const ds_array &array) {
  if (array.dtype != DS_I32 && array.dtype != DS_I64) fail(DS_CHECKPOINT, into.name + " must be stored as integers");
  check_array(into.name, array, into.shape, 1);
  const int per_token = sizes.experts_per_token;
  const auto *data = static_cast<const uint8_t *>(array.data);
  for (int64_t token = 0; token < sizes.vocab_size; token++) {
    int32_t *chosen = *into.table + token * per_token;
    for (int i = 0; i < per_token; i++) {
      int64_t expert;
      if (array.dtype == DS_I64) {
        std::memcpy(&expert, data + (token * per_token + i) * 8, 8);
      } else {
        int32_t narrow;
        std::memcpy(&narrow, data + (token * per_token + i) * 4, 4);
        expert = narrow;
      }
      if (expert < 0 || expert >= sizes.num_experts)
        fail(DS_CHECKPOINT, into.name + " names experts outside 0.." + std::to_string(sizes.num_experts - 1));
      chosen[i] = static_cast<int32_t>(expert);
    }
    std::sort(chosen, chosen + per_token);
    if (std::adjacent_find(chosen, chosen + per_token) != chosen + per_token)
      fail(DS_CHECKPOINT, into.name + " gives a token the same expert twice");
  }
}

void Network::put_embedding(const Place &into, const ds_array &array) {
  if (!is_plain_float(array.dtype)) fail(DS_CHECKPOINT, into.name + " must be stored as floating point numbers");
  check_array(into.name, array, into.shape, 1);
  if (options_.head_format == DS_FORMAT_MAPPED_BF16 && array.dtype == DS_BF16) {
    mapped_embedding_ = static_cast<const uint8_t *>(array.data);
    return;
  }
  Source source;
  source.dtype = static_cast<ds_dtype>(array.dtype);
  source.rows = sizes.vocab_size;
  source.columns = sizes.hidden_size;
  source.data = static_cast<const uint8_t *>(array.data);
  if (has_bad_values(source)) fail(DS_CHECKPOINT, into.name + " holds values that are not finite");
  embedding_type_ = array.dtype == DS_BF16 ? DS_BF16 : DS_F32;
  if (embedding_type_ == DS_BF16) {
    std::memcpy(embedding_, array.data, static_cast<size_t>(array.size_bytes));
  } else {
    dequantise(source, 0, source.rows, reinterpret_cast<float *>(embedding_));
  }
}

void Network::seal() {
  if (is_sealed) fail(DS_INVALID, "the network is sealed already");
  for (const Place &place : places_)
    if (place.kind != Place::Kind::kUnknown && !place.is_put) fail(DS_CHECKPOINT, "missing " + place.name);
  const int streams = sizes.streams;
  const auto widen = [streams](HyperConnection &hyper) {
    for (int i = 0; i < (2 + streams) * streams; i++) hyper.scale[i] = hyper.stored_scale[std::min(i / streams, 2)];
  };
  for (Layer &layer : layers) {
    widen(layer.attn_hyper);
    widen(layer.ffn_hyper);
  }
  std::fill(head_hyper.scale, head_hyper.scale + streams, head_hyper.stored_scale[0]);
  count_bytes();
  is_sealed = true;
}

void Network::count_bytes() {
  const auto bytes_of = [](const Fused &fused) {
    int64_t bytes = 0;
    for (const Matrix &matrix : fused.matrices)
      bytes += matrix.is_packed() ? static_cast<int64_t>(matrix.num_blocks) * static_cast<int64_t>(matrix.block_bytes)
                                  : static_cast<int64_t>(matrix.outputs) *
                                        static_cast<int64_t>(matrix.row_bytes + matrix.scale_row_bytes);
    return bytes;
  };
  int64_t of_every_token = bytes_of(head), of_experts = 0, of_visited_experts = 0;
  for (const Allocation &item : allocations_)
    if (item.floats) of_every_token += static_cast<int64_t>(item.count) * 4;
  for (const Layer &layer : layers) {
    for (const Fused *fused : {&layer.of_input, &layer.of_queries, &layer.wo_b, &layer.shared_w13, &layer.shared_w2})
      of_every_token += bytes_of(*fused);
    for (const Fused &group : layer.wo_a) of_every_token += bytes_of(group);
    const int64_t of_expert = bytes_of(layer.w13[0]) + bytes_of(layer.w2[0]);
    of_experts += sizes.num_experts * of_expert;
    of_visited_experts += sizes.experts_per_token * of_expert;
  }
  const int64_t embedding_item = embedding_type_ == DS_BF16 ? 2 : 4;
  weight_bytes = of_every_token + of_experts + embedding_item * sizes.vocab_size * sizes.hidden_size;
  active_weight_bytes = of_every_token + of_visited_experts;
}

const float *Network::embedding(int token, float *row) const {
  const int d = sizes.hidden_size;
  if (!mapped_embedding_ && embedding_type_ == DS_F32)
    return reinterpret_cast<const float *>(embedding_) + static_cast<size_t>(token) * d;
  const uint8_t *stored = (mapped_embedding_ ? mapped_embedding_ : embedding_) + static_cast<size_t>(token) * d * 2;
  for (int i = 0; i < d; i++) {
    uint16_t narrow;
    std::memcpy(&narrow, stored + 2 * static_cast<size_t>(i), 2);
    const uint32_t wide = static_cast<uint32_t>(narrow) << 16;
    std::memcpy(row + i, &wide, 4);
  }
  return row;
}

// The packed area as a file

void Network::save_packed(const std::string &path, const uint8_t key[32]) const {
  if (!is_sealed) fail(DS_INVALID, "only a sealed network can be saved");
  if (has_mapped_matrices()) fail(DS_INVALID, "mapped weights cannot be saved packed, they are a file already");
  PackedHeader header;
  std::memcpy(header.key, key, sizeof header.key);
  header.size_bytes = area_bytes_;
  header.weight_bytes = weight_bytes;
  header.active_weight_bytes = active_weight_bytes;
  header.embedding_type = embedding_type_;
  header.checksum = packed_checksum(header, area_.data());
  std::FILE *file = std::fopen(path.c_str(), "wb");
  if (!file) fail(DS_IO, path + ": cannot be written");
  bool is_written = std::fwrite(&header, sizeof header, 1, file) == 1 &&
                    std::fwrite(area_.data(), 1, area_bytes_, file) == area_bytes_;
  is_written = std::fclose(file) == 0 && is_written;
  if (!is_written) fail(DS_IO, path + ": cannot be written, is the disk full?");
}

void Network::load_packed(const std::string &path, const uint8_t key[32]) {
  if (is_sealed) fail(DS_INVALID, "the network is sealed, nothing can be loaded into it");
  if (has_mapped_matrices()) fail(DS_INVALID, "mapped weights cannot be loaded packed, they lie in the checkpoint");
  struct Closed {
    std::FILE *file;
    ~Closed() {
      if (file) std::fclose(file);
    }
  } opened{std::fopen(path.c_str(), "rb")};
  if (!opened.file) fail(DS_IO, path + ": cannot be read");
  PackedHeader header;
  const PackedHeader expected;
  if (std::fread(&header, sizeof header, 1, opened.file) != 1 ||
      std::memcmp(header.magic, expected.magic, sizeof header.magic) != 0 || header.layout != expected.layout)
    fail(DS_CHECKPOINT, path + ": not packed weights of this version");
  if (std::memcmp(header.key, key, sizeof header.key) != 0 || header.size_bytes != area_bytes_)
    fail(DS_CHECKPOINT, path + ": packed weights of another checkpoint or of other formats");
  constexpr size_t kPiece = size_t{16} << 20;
  size_t read_bytes = 0;
  const auto refuse = [&](const char *why) {
    // Nothing is left of what was there: tensors may be put instead, into memory as they found it at first.
    std::memset(area_.data(), 0, read_bytes);
    for (Place &place : places_) place.is_put = false;
    fail(DS_CHECKPOINT, path + why);
  };
  while (read_bytes < area_bytes_) {
    const size_t size =
        std::fread(area_.data() + read_bytes, 1, std::min(kPiece, area_bytes_ - read_bytes), opened.file);
    if (size == 0) refuse(": ends too early");
    read_bytes += size;
  }
  if (std::fgetc(opened.file) != EOF) refuse(": is longer than its weights");
  if (packed_checksum(header, area_.data()) != header.checksum) refuse(": the checksum is wrong, the file is damaged");
  embedding_type_ = header.embedding_type == DS_BF16 ? DS_BF16 : DS_F32;
  weight_bytes = header.weight_bytes;
  active_weight_bytes = header.active_weight_bytes;
  is_sealed = true;
}

bool Network::has_mapped_matrices() const {
  for (const Place &place : places_)
    for (const Part &part : place.parts)
      if (!part.fused->matrices[static_cast<size_t>(part.matrix)].is_packed()) return true;
  return false;
}

}  // namespace deepserve
