/* The native core's C ABI: weights, sequence states, one forward call, sampling.
 *
 * Rules: every call takes explicit sizes; nothing throws or calls back; there is no global state. A call that can fail
 * returns a status and, unless `fault` is NULL, writes a sentence for a person into it. One thread at a time per
 * engine, but for ds_mask_settle. Changing anything here changes DS_ABI_VERSION.
 */
#ifndef DEEPSERVE_CORE_H
#define DEEPSERVE_CORE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(_WIN32)
#define DS_API __declspec(dllexport)
#else
#define DS_API __attribute__((visibility("default")))
#endif

#define DS_ABI_VERSION 2
#define DS_CHUNK_TOKENS 128 /* no row crosses an absolute multiple of this */

typedef struct ds_engine ds_engine;

enum ds_status {
  DS_OK = 0,
  DS_INVALID = 1,       /* the caller broke the contract: unknown sequence, token outside the vocabulary, wrong sizes */
  DS_CHECKPOINT = 2,    /* a tensor is missing, misshapen, of an unknown type, or holds impossible values */
  DS_OUT_OF_MEMORY = 3, /* state memory is used up, or the machine's; nothing has changed */
  DS_IO = 4             /* a file could not be read or written */
};

typedef struct {
  char message[512];
} ds_fault;

/* How elements are stored in a checkpoint. */
enum ds_dtype {
  DS_F32 = 0,
  DS_F16 = 1,
  DS_BF16 = 2,
  DS_F64 = 3,
  DS_F8_E4M3 = 4, /* scale: one E8M0 byte (or float) per 128 x 128 block */
  DS_F8_E8M0 = 5, /* scales only: 2^(byte - 127), 255 is not a number */
  DS_FP4 = 6,     /* E2M1, two to a byte along the inputs, low nibble first; scale: one E8M0 byte per 32 inputs */
  DS_I32 = 7,
  DS_I64 = 8
};

/* How matrices are kept in memory and multiplied. */
enum ds_format {
  DS_FORMAT_F32 = 0,
  DS_FORMAT_BF16 = 1,        /* activations rounded to bf16, products summed in float32 */
  DS_FORMAT_INT8 = 2,        /* groups of 64 inputs; activations int8 in the same groups */
  DS_FORMAT_FP4 = 3,         /* E2M1 with a power of two per 32 inputs; activations int8 */
  DS_FORMAT_FP4_EXACT = 4,   /* the same weights, activations bf16 */
  DS_FORMAT_FP8 = 5,         /* E4M3 with a power of two per 128 x 128 block; activations bf16 */
  DS_FORMAT_MAPPED_BF16 = 6, /* row by row where the checkpoint's file lies, nothing copied; activations as above */
  DS_FORMAT_MAPPED_FP4 = 7,
  DS_FORMAT_MAPPED_FP8 = 8,
  DS_NUM_FORMATS = 9
};

/* Element type of stored states. */
enum ds_state_type { DS_STATE_F32 = 0, DS_STATE_BF16 = 1 };

/* One tensor of a network; `layer` and `expert` say which. Names and shapes: docs/checkpoints.md. */
/* clang-format off */
enum ds_tensor {
  DS_EMBED = 0, DS_HEAD, DS_NORM, DS_HC_HEAD_FN, DS_HC_HEAD_BASE, DS_HC_HEAD_SCALE,
  DS_ATTN_NORM, DS_FFN_NORM, DS_HC_ATTN_FN, DS_HC_ATTN_BASE, DS_HC_ATTN_SCALE,
  DS_HC_FFN_FN, DS_HC_FFN_BASE, DS_HC_FFN_SCALE,
  DS_WQ_A, DS_Q_NORM, DS_WQ_B, DS_WKV, DS_KV_NORM, DS_WO_A, DS_WO_B, DS_ATTN_SINK,
  DS_COMPRESSOR_WKV, DS_COMPRESSOR_WGATE, DS_COMPRESSOR_APE, DS_COMPRESSOR_NORM,
  DS_INDEX_WQ_B, DS_INDEX_WEIGHTS, DS_INDEX_WKV, DS_INDEX_WGATE, DS_INDEX_APE, DS_INDEX_NORM,
  DS_GATE, DS_GATE_BIAS, DS_GATE_TABLE, DS_EXPERT_W1, DS_EXPERT_W2, DS_EXPERT_W3,
  DS_SHARED_W1, DS_SHARED_W2, DS_SHARED_W3,
  DS_NUM_TENSORS
};
/* clang-format on */

/* One layer of the plan. What a layer does is said here, not derived from its number. */
typedef struct {
  int32_t ratio;          /* tokens per compressed entry; 0: window only; else a divisor of DS_CHUNK_TOKENS */
  int32_t overlaps;       /* entries pool the block before their own as well */
  int32_t selects;        /* entries are read through an indexer */
  int32_t is_hash_routed; /* experts are chosen by token id */
  int32_t rotation;       /* 0 or 1: which of the two sets of frequencies */
} ds_layer;

typedef struct {
  int32_t abi_version;
  int32_t vocab_size, hidden_size, num_layers, num_heads, head_dim, rope_dim, q_rank;
  int32_t o_groups, o_rank, window, index_heads, index_dim, index_topk;
  int32_t num_experts, experts_per_token, expert_width;
  int32_t streams, sinkhorn_steps, max_context;
  float routed_scale, swiglu_limit, hc_eps, norm_eps;
  const ds_layer *layers;      /* [num_layers] */
  const float *frequencies[2]; /* [rope_dim / 2] each: angle per position */
} ds_network;

typedef struct {
  int32_t dense_format, expert_format, head_format; /* ds_format */
  int32_t state_type;
  int32_t num_threads;
  int64_t memory_bytes; /* for the states of sequences and snapshots */
  const char *isa;      /* one of ds_isas(), or NULL for the best */
} ds_options;

typedef struct {
  int32_t dtype, rank;
  int64_t shape[3];
  const void *data; /* for mapped formats it must outlive the engine; else only the call */
  int64_t size_bytes;
} ds_array;

/* A mask that another thread computes while a step runs: zeroed before the step, settled once by ds_mask_settle. */
typedef struct {
  const uint8_t *bits; /* as ds_draw.mask */
  int64_t num_bytes;
  int32_t state; /* ds_mask_state */
} ds_late_mask;

enum ds_mask_state { DS_MASK_AWAITED = 0, DS_MASK_READY = 1, DS_MASK_FAILED = 2 };

/* See `Draw` in engine/interface.py for what each field does and in which order. */
typedef struct {
  double temperature, top_p, min_p;
  double repetition_penalty, frequency_penalty, presence_penalty;
  uint64_t seed, position;
  int32_t top_k;
  int32_t num_top_logprobs; /* -1: no log-probabilities */
  int32_t num_biases, num_prompt_tokens, num_counts;
  int32_t has_mask;
  const int32_t *bias_tokens;
  const double *bias_values;
  const int32_t *prompt_tokens; /* distinct */
  const int32_t *count_tokens;  /* distinct */
  const int32_t *counts;
  const uint8_t *mask; /* one bit per token, least significant first */
  int64_t mask_bytes;
  ds_late_mask *late_mask; /* instead of a mask; NULL: there is none to wait for */
} ds_draw;

enum ds_want { DS_WANT_NOTHING = 0, DS_WANT_TOKEN = 1, DS_WANT_LOGITS = 2 /* of every token of the row */ };

typedef struct {
  int64_t sequence;
  const int32_t *tokens;
  int32_t num_tokens;
  int32_t want;
  const ds_draw *draw; /* for DS_WANT_TOKEN */
  float *logits;       /* for DS_WANT_LOGITS: [num_tokens][vocab_size] */
} ds_row;

enum ds_row_fault { DS_ROW_FINE = 0, DS_ROW_NOT_FINITE = 1, DS_ROW_NOTHING_ALLOWED = 2, DS_ROW_NO_MASK = 3 };

typedef struct {
  int32_t token; /* -1: none was wanted */
  int32_t fault; /* ds_row_fault */
  int32_t num_top;
  int32_t top_tokens[20];
  double logprob;
  double top_logprobs[20];
} ds_drawn;

typedef struct {
  int64_t weight_bytes;            /* packed and mapped */
  int64_t active_weight_bytes;     /* read for one token */
  int64_t block_bytes, slot_bytes; /* of state: per DS_CHUNK_TOKENS tokens, and per sequence */
  int64_t num_blocks, num_slots, free_blocks, free_slots;
  int32_t num_threads;    /* in use now */
  int32_t has_huge_pages; /* 1: the kernel backs the packed weights with huge pages, 0: not, -1: unknown */
  char isa[16];
} ds_info;

DS_API int32_t ds_abi_version(void);
/* Instruction sets this build has and this machine runs, best first, separated by commas. */
DS_API const char *ds_isas(void);

/* The network's sizes are checked here; matrices follow by ds_engine_put, then ds_engine_seal. */
DS_API int32_t ds_engine_new(const ds_network *network, const ds_options *options, ds_engine **engine, ds_fault *fault);
DS_API void ds_engine_delete(ds_engine *engine);
/* scale: NULL unless the dtype has scales. */
DS_API int32_t ds_engine_put(ds_engine *engine, int32_t tensor, int32_t layer, int32_t expert, const ds_array *array,
                             const ds_array *scale, ds_fault *fault);
/* Everything has been put? Only now may sequences be created. */
DS_API int32_t ds_engine_seal(ds_engine *engine, ds_fault *fault);
DS_API void ds_engine_info(const ds_engine *engine, ds_info *info);

/* The packed weights as a file for the next start. `key` (32 bytes) names the checkpoint and formats; a file with
 * another key, another build's layout or a wrong checksum is refused with DS_CHECKPOINT. Loading replaces all puts. */
DS_API int32_t ds_engine_save_packed(const ds_engine *engine, const char *path, const uint8_t *key, ds_fault *fault);
DS_API int32_t ds_engine_load_packed(ds_engine *engine, const char *path, const uint8_t *key, ds_fault *fault);

DS_API int32_t ds_sequence_new(ds_engine *engine, int64_t *sequence, ds_fault *fault);
DS_API int32_t ds_sequence_fork(ds_engine *engine, int64_t sequence, int64_t *fork, ds_fault *fault);
DS_API int32_t ds_sequence_free(ds_engine *engine, int64_t sequence, ds_fault *fault);
DS_API int32_t ds_sequence_length(const ds_engine *engine, int64_t sequence, int64_t *length, ds_fault *fault);

/* A sequence's state as a blob (layout: docs/engine.md), and a new sequence from one. */
DS_API int32_t ds_sequence_blob_size(const ds_engine *engine, int64_t sequence, int64_t *size_bytes, ds_fault *fault);
DS_API int32_t ds_sequence_save(const ds_engine *engine, int64_t sequence, void *blob, int64_t size_bytes,
                                ds_fault *fault);
DS_API int32_t ds_sequence_load(ds_engine *engine, const void *blob, int64_t size_bytes, int64_t *sequence,
                                ds_fault *fault);

/* All or nothing: with any status but DS_OK no sequence has advanced. drawn: [num_rows].
 * Logits come first: only then are late masks waited for. It returns when every one of them is settled. */
DS_API int32_t ds_step(ds_engine *engine, const ds_row *rows, int32_t num_rows, ds_drawn *drawn, ds_fault *fault);

/* What became of a late mask: the tokens it allows (which must stay where they are until the step is over), or NULL
 * when it could not be computed. May be called from any thread, once. */
DS_API void ds_mask_settle(ds_late_mask *mask, const uint8_t *bits, int64_t num_bytes);

/* Map a file read-only; NULL and a fault if that fails. */
DS_API const void *ds_file_map(const char *path, int64_t *size_bytes, ds_fault *fault);
DS_API void ds_file_unmap(const void *data, int64_t size_bytes);

/* Bytes per second this machine reads memory with, `num_threads` threads over `size_bytes` each; < 0: no memory. */
DS_API double ds_measure_read_bandwidth(int64_t size_bytes, int32_t num_threads);

/* For tests and benchmarks only: one kernel by itself, on arrays in plain layout. */
DS_API int32_t ds_test_multiply(const char *isa, int32_t format, const ds_array *weights, const ds_array *scale,
                                const float *x, int32_t rows, float *out, ds_fault *fault);
/* The best `number` of `count` scores, ties to the lower index, ascending. chosen: [number]. */
DS_API int32_t ds_test_select(const char *isa, const float *scores, int32_t count, int32_t number, int32_t *chosen,
                              ds_fault *fault);

#ifdef __cplusplus
}
#endif
#endif
