"""What the servers of clusters take and send, restated from their own public declarations.

Every member of vLLM's and SGLang's that is listed here is in the packages vllm 0.33.0 and sglang 0.5.23, whose own
checks (SamplingParams.verify, the contract of /generate) took what we send.

A request with a member that is not listed here, or of another type, is refused by the fake cluster, so that every test
checks what we send; an answer is written by these types, so that every test checks what we accept.

vLLM    github.com/vllm-project/vllm, vllm/entrypoints/openai/completion/protocol.py: CompletionRequest,
        CompletionStreamResponse, CompletionResponseStreamChoice, CompletionLogProbs; vllm/sampling_params.py:
        StructuredOutputsParams; read in August 2026
SGLang  github.com/sgl-project/sglang, python/sglang/srt/managers/io_struct.py: GenerateReqInput;
        python/sglang/srt/sampling/sampling_params.py: SamplingParams, with the bounds of `verify`;
        python/sglang/srt/managers/tokenizer_manager.py: `_handle_batch_output`; read in August 2026
llama.cpp  github.com/ggml-org/llama.cpp, tools/server/README.md: POST /completion; read in August 2026
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

TokenId = Annotated[int, Meta(ge=0)]
Int64 = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Json = Any  # a schema


class StreamOptions(Struct, forbid_unknown_fields=True):
    include_usage: bool | None = True
    continuous_usage_stats: bool | None = False


class StructuredOutputs(Struct, forbid_unknown_fields=True):
    """Of the constraints, exactly one may be given."""

    json: Json = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None
    structural_tag: str | None = None
    disable_any_whitespace: bool = False
    disable_additional_properties: bool = False
    whitespace_pattern: str | None = None

    def __post_init__(self) -> None:
        given = (self.json, self.regex, self.choice, self.grammar, self.json_object, self.structural_tag)
        if sum(one is not None for one in given) != 1:
            raise ValueError("exactly one constraint")


class CompletionRequest(Struct, forbid_unknown_fields=True):
    """vLLM's POST /v1/completions: the members that a text-only client may send."""

    model: str | None = None
    prompt: list[TokenId] | str | None = None  # lists of either, too
    echo: bool | None = False
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    logprobs: Annotated[int, Meta(ge=-1)] | None = None
    max_tokens: int | None = 16
    n: int = 1
    presence_penalty: float | None = None
    seed: Int64 | None = None
    stop: list[str] | str | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    suffix: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    user: str | None = None
    use_beam_search: bool = False
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    length_penalty: float = 1.0
    stop_token_ids: list[int] | None = None
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    min_tokens: int = 0
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    truncate_prompt_tokens: int | None = None
    allowed_token_ids: list[int] | None = None
    prompt_logprobs: int | None = None
    add_special_tokens: bool = True
    response_format: Json = None
    structured_outputs: StructuredOutputs | None = None
    priority: int = 0
    request_id: str | None = None
    return_tokens_as_token_ids: bool | None = None
    return_token_ids: bool | None = None
    cache_salt: Annotated[str, Meta(min_length=1, max_length=1024)] | None = None
    kv_transfer_params: Json = None
    vllm_xargs: Json = None


class CompletionLogprobs(Struct):
    text_offset: list[int]
    token_logprobs: list[float | None]
    tokens: list[str]
    top_logprobs: list[dict[str, float] | None]


class CompletionChoice(Struct):
    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: str | None
    stop_reason: int | str | None
    token_ids: list[int] | None
    prompt_token_ids: list[int] | None = None


class PromptTokensDetails(Struct):
    cached_tokens: int | None


class CompletionUsage(Struct):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails | None = None


class CompletionChunk(Struct):
    id: str
    model: str
    choices: list[CompletionChoice]
    object: Literal["text_completion"] = "text_completion"
    created: int = 0
    usage: CompletionUsage | None = None


class SamplingParams(Struct, forbid_unknown_fields=True):
    """SGLang's `sampling_params`; of json_schema, regex and ebnf one may be given."""

    max_new_tokens: Annotated[int, Meta(ge=0)] | None = 128
    stop: list[str] | str | None = None
    stop_token_ids: list[int] | None = None
    stop_regex: list[str] | str | None = None
    temperature: Annotated[float, Meta(ge=0)] = 1.0
    top_p: Annotated[float, Meta(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Meta(ge=-1)] = -1
    min_p: Annotated[float, Meta(ge=0, le=1)] = 0.0
    frequency_penalty: Penalty = 0.0
    presence_penalty: Penalty = 0.0
    repetition_penalty: Annotated[float, Meta(gt=0, le=2)] = 1.0
    min_new_tokens: int = 0
    n: int = 1
    json_schema: str | None = None
    regex: str | None = None
    ebnf: str | None = None
    structural_tag: str | None = None
    ignore_eos: bool = False
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    no_stop_trim: bool = False
    custom_params: Json = None
    stream_interval: int | None = None
    logit_bias: dict[str, float] | None = None
    sampling_seed: int | None = None

    def __post_init__(self) -> None:
        if sum(one is not None for one in (self.json_schema, self.regex, self.ebnf)) > 1:
            raise ValueError("only one of regex, json_schema, or ebnf can be set")
        if self.top_k == 0:
            raise ValueError("top_k must be -1 or at least 1")


class GenerateRequest(Struct, forbid_unknown_fields=True):
    """SGLang's POST /generate: the members that a text-only client may send."""

    rid: str | None = None
    text: str | None = None
    input_ids: list[TokenId] | None = None
    sampling_params: SamplingParams | None = None
    return_logprob: bool | None = None
    logprob_start_len: int | None = None
    top_logprobs_num: int | None = None
    token_ids_logprob: list[int] | None = None
    return_text_in_logprobs: bool = False
    stream: bool = False
    log_metrics: bool = True
    lora_path: str | None = None
    priority: int | None = None
    extra_key: str | None = None
    cache_salt: str | None = None
    no_logs: bool = False


LogprobEntry = tuple[float | None, int, str | None]


class FinishReason(Struct, omit_defaults=True):
    type: Literal["stop", "length", "abort"]
    matched: int | str | None = None
    length: int | None = None
    message: str | None = None
    status_code: int | None = None


class MetaInfo(Struct):
    id: str
    finish_reason: FinishReason | None
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    reasoning_tokens: int = 0
    weight_version: str = "default"
    num_retractions: int = 0
    output_token_logprobs: list[LogprobEntry] | None = None
    output_top_logprobs: list[list[LogprobEntry] | None] | None = None


class GenerateChunk(Struct):
    text: str
    output_ids: list[int]
    meta_info: MetaInfo


class LlamaRequest(Struct, forbid_unknown_fields=True):
    """llama.cpp's POST /completion: the members that a text-only client may send."""

    prompt: list[TokenId]
    temperature: float = 0.8
    dynatemp_range: float = 0.0
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    n_predict: int = -1
    n_keep: int = 0
    stream: bool = False
    stop: list[str] = []
    typical_p: float = 1.0
    repeat_penalty: float = 1.1
    repeat_last_n: Annotated[int, Meta(ge=0)] = 64
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    grammar: str | None = None
    json_schema: Json = None
    seed: int = -1
    ignore_eos: bool = False
    logit_bias: list[tuple[int, float]] = []
    n_probs: int = 0
    min_keep: int = 0
    id_slot: int = -1
    cache_prompt: bool = True
    return_tokens: bool = False
    samplers: list[Literal["dry", "top_k", "typ_p", "top_p", "min_p", "xtc", "temperature", "penalties"]] = []
    timings_per_token: bool = False
    post_sampling_probs: bool = False


class LlamaTop(Struct):
    id: int
    token: str
    bytes: list[int]
    logprob: float


class LlamaProbability(Struct):
    id: int
    token: str
    bytes: list[int]
    logprob: float
    top_logprobs: list[LlamaTop]


class LlamaTimings(Struct):
    cache_n: int
    prompt_n: int
    predicted_n: int


class LlamaChunk(Struct, omit_defaults=True):
    content: str
    tokens: list[int]
    stop: bool
    index: int = 0
    id_slot: int = 0
    stop_type: Literal["none", "eos", "limit", "word"] = "none"
    stopping_word: str = ""
    tokens_evaluated: int = 0
    tokens_predicted: int = 0
    tokens_cached: int = 0
    truncated: bool = False
    completion_probabilities: list[LlamaProbability] = []
    timings: LlamaTimings | None = None
