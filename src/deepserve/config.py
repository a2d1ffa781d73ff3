"""Every setting of a server, in one frozen value. A reload swaps in a new one; requests in flight keep theirs."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import msgspec


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Upper bounds on what one client may send; each has its own error.

    connections         open at once; further requests are refused with 503. Many systems allow a process 1024 files
    body_timeout_s      between two pieces of a body;
    body_grace_s        after so long it must have come, on average since then,
    body_bytes_per_s    at least so fast
    """

    connections: int = 800

    body_bytes: int = 32 * 1024 * 1024
    json_depth: int = 64
    json_members: int = 100_000
    header_bytes: int = 32 * 1024
    header_fields: int = 100
    request_line_bytes: int = 8 * 1024
    messages: int = 10_000
    tools: int = 128
    stop_strings: int = 16
    stop_string_bytes: int = 1024
    logit_bias_entries: int = 300
    num_results: int = 16
    user_id_bytes: int = 512
    headers_timeout_s: float = 10.0
    body_timeout_s: float = 30.0
    body_grace_s: float = 30.0
    body_bytes_per_s: float = 16 * 1024
    send_timeout_s: float = 60.0


class TaskLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds on answers that come later.

    max_running        tasks carried out side by side
    max_attempts       how often a task is begun that dies with the server each time
    max_unfinished_per_tenant  more are refused
    max_bytes_per_tenant  contents of unfinished tasks; of ended ones, too, where the oldest lose theirs beyond it
    patience_s         so long a task waits for a back end that has no room
    record_s           an id cannot be used again for so long after its task has ended
    delivery_record_s  webhook calls and their attempts can be looked up for so long
    """

    max_running: int = 4
    max_attempts: int = 3
    max_unfinished_per_tenant: int = 1000
    max_bytes_per_tenant: int = 256 * 1024 * 1024
    patience_s: float = 86_400.0
    record_s: float = 30 * 86_400.0
    delivery_record_s: float = 7 * 86_400.0


class SocketLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds on WebSocket connections.

    login_s        a client says within it who it is
    idle_s         a connection on which nothing arrives for so long is closed
    resume_s       what could not be delivered waits for the client so long,
    resume_bytes   up to this size; results can be asked for even then,
    sessions       and so many clients are waited for
    frame_bytes    nothing larger is sent in one piece, for clients would refuse it
    message_bytes  nothing larger is read
    num_tasks      tasks of one connection that may be unfinished, and tasks of one tenant that may run while a client
                   waits for them, or after it left
    """

    login_s: float = 15.0
    idle_s: float = 120.0
    resume_s: float = 120.0
    resume_bytes: int = 8 * 1024 * 1024
    sessions: int = 1000
    frame_bytes: int = 1024 * 1024
    message_bytes: int = 32 * 1024 * 1024
    num_tasks: int = 100


class ToolLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds on what tools that the server runs may take for one answer.

    rounds             how often the model may call them and go on
    calls              calls in all, of which so many `parallel_calls` run at once
    call_s             a call that takes longer has failed
    total_s            after so long no more calls are made
    total_tokens       prompt and output of all rounds; beyond it no more calls are made
    result_characters  of a result, the model reads no more
    kept_bytes         results of earlier answers that are kept for one tenant
    """

    rounds: int = 8
    calls: int = 32
    parallel_calls: int = 8
    call_s: float = 60.0
    total_s: float = 300.0
    total_tokens: int = 2_000_000
    result_characters: int = 100_000
    kept_bytes: int = 16 * 1024 * 1024


SandboxTier = Literal["auto", "bubblewrap", "landlock"]


class CodeLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds on the programs that the code tool runs, and how they are walled in.

    tier           the kind of walls; auto: the strongest that works here
    folder         where the Python that programs see is prepared; None: in the user's cache, or root's
    first_uid      a server that runs as root starts programs as this user and those after it, one for each session
    max_sessions   conversations whose variables and files are kept, each in a process of its own,
    max_sessions_per_tenant  and how many of them one tenant may have; the one longest unused makes room
    waiting        processes that are started ahead
    cell_s         the longest that one call may take,
    cell_cpu_s     and the processor time it may use
    session_cpu_s  processor time of a whole session
    idle_s         a session that is not used for so long is ended,
    life_s         and every session after so long
    memory_bytes   address space of a process
    session_files  files and folders in a session's working folder,
    session_bytes  and their size together
    file_bytes     size of one of them
    code_bytes     size of the program that one call may run
    output_bytes   kept of what a program prints,
    output_read_bytes  and it is ended when it prints more than this in one call
    files_back     files that a call may bring back,
    file_back_bytes  and their size, each
    """

    tier: SandboxTier = "auto"
    folder: Path | None = None
    first_uid: int = 64_700
    max_sessions: int = 8
    max_sessions_per_tenant: int = 2
    waiting: int = 1
    cell_s: float = 30.0
    cell_cpu_s: float = 20.0
    session_cpu_s: float = 300.0
    idle_s: float = 600.0
    life_s: float = 1800.0
    memory_bytes: int = 1 << 30
    session_files: int = 4096
    session_bytes: int = 64 * 1024 * 1024
    file_bytes: int = 32 * 1024 * 1024
    code_bytes: int = 256 * 1024
    output_bytes: int = 64 * 1024
    output_read_bytes: int = 1024 * 1024
    files_back: int = 10
    file_back_bytes: int = 1024 * 1024


EngineName = Literal["auto", "native", "reference"]

InstructionSet = Literal["generic", "avx2", "avx512", "neon"]

WeightFormat = Literal["auto", "fp32", "bf16", "int8", "fp4", "fp4-exact", "fp8"]


class WeightFormats(msgspec.Struct, frozen=True, kw_only=True):
    """How the native engine keeps its matrices. auto: as the checkpoint stores them.

    dense    everything but the two others: attention, shared experts
    experts  the routed experts
    head     from the last hidden state to logits

    fp4 multiplies in int8, fp4-exact in bf16.
    """

    dense: WeightFormat = "auto"
    experts: WeightFormat = "auto"
    head: WeightFormat = "auto"


SearchServiceName = Literal["searxng", "brave", "tavily"]


CheckPolicy = Literal["off", "report", "repair", "retry", "fail"]
"""What is done about answers whose form the back end does not enforce; `backends.checked` says what each means."""


EstimatorName = Literal["signs", "model"]
"""How the difficulty of a request is found where its model is open; `routing.difficulty` says what each means."""


EMBEDDED = "embedded"
"""The member of a chain that is our own engine."""


class UpstreamSettings(msgspec.Struct, frozen=True, kw_only=True):
    """One service or server that answers in our place.

    id              the operator's name for it, in chains, metrics and the ledger
    kind            a row of catalog/providers.toml
    address         None: the row's
    key_file        holds the key; None: it is in the environment, in
    key_variable    this variable, or the row's
    models          our ids -> its names of the models; empty: those of the row
    max_concurrent  answers of one model at once; None: 500 of Pro, 2500 of Flash. More wait for their turn
    connect_s       until a connection stands; None, here and below: as UpstreamLimits has it
    first_event_s   from then on until the answer begins
    idle_s          between two events of an answer
    num_retries     of calls that did not begin and cannot have cost anything
    is_self_hosted  runs on the operator's own machines
    region          where it processes prompts, as clients name it (`eu`); None: unknown
    collects_data   may keep or train on what it is sent; None: as the row has it, where unknown counts as yes
    """

    id: str
    kind: str
    address: str | None = None
    key_file: Path | None = None
    key_variable: str | None = None
    models: Mapping[str, str] = {}
    max_concurrent: int | None = None
    connect_s: float | None = None
    first_event_s: float | None = None
    idle_s: float | None = None
    num_retries: int | None = None
    is_self_hosted: bool = False
    region: str | None = None
    collects_data: bool | None = None


class FleetSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How several back ends act as one.

    max_waiting   requests that may wait for a turn at one member's model; more go on to the next member
    wait_s        and the longest they do
    hedge_s       a second member is asked, too, when the first has not begun after so long; None: never
    canary_s      every member is asked a small question so often, which costs money; None: never
    """

    max_waiting: int = 100
    wait_s: float = 10.0
    hedge_s: float | None = None
    canary_s: float | None = None


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Counts of tokens and bytes carry their unit in the name; times are seconds.

    runware_port     listen here too, for Runware's clients that stream to one fixed local address; None: do not
    api_keys         keys that may use the server; none: everybody on this machine is one local tenant
    model_path       a checkpoint folder; None: the model that ships
    profile          prompt profile of a foreign checkpoint; None: decided from its name
    max_concurrency  sequences decoded side by side
    max_queue_tokens prompt tokens that may wait before new requests are refused
    engine           auto: the native engine where it is installed, else the PyTorch reference
    isa, weights, is_mapped, packed_dir, num_threads
                     see `engine.options.EngineOptions`
    cache_bytes      memory for sequence states and cached prefixes
    state_dir        where what must survive a restart is kept; None: nowhere
    disk_cache_bytes most that cached prefixes may take under state_dir; 0: none are written or read
    keep_alive_s     a waiting client hears something at least this often
    request_timeout_s  an answer without any progress for so long is given up
    shutdown_grace_s running answers may take so long to finish when the server stops; then they are ended
    replay_answers   complete answers kept for repetitions with the same Idempotency-Key,
    replay_bytes     their size together,
    replay_s         and how long each is kept
    kept_responses   responses kept for each tenant, for clients to continue or ask for again; 0: none
    kept_responses_bytes  their size together, compressed,
    kept_responses_s and how long each is kept
    kept_turns_bytes most that turns with tools may take in the state directory for one tenant, compressed,
    kept_turns_s     and how long each is kept, for clients that do not send thinking traces back; 0: none
    prices_file      the operator's price table, which goes before the shipped one; read again whenever it changes
    is_strict        reproduce the vendor's refusals for every request
    answer_checks    what to do about answers whose form the back end does not enforce; None: as suits the back end
    check_retries    how often such an answer may be asked for again
    upstream         who answers for the back end `upstream`: a row of catalog/providers.toml, an address, KIND=ADDRESS
    upstream_key_file  holds the key for it; None: it is in the environment
    upstream_models  our ids -> its names of the models, where they are not those of the row
    upstreams        more than one of them, or with more said of each; with `upstream` they make one back end
    chains           model id -> ids of upstreams in the order in which they are asked; `embedded` is our own engine.
                     A model without one is asked of all that have it, in the order of `upstreams`
    fleet            how several of them act as one
    difficulty       how the difficulty of a request is found where its model is open
    outgoing_allowed addresses of webhooks that may be called though they are not public: host:port, or a network
    outgoing_http    webhooks may be called without TLS
    search_folders   folders that models may search, by the names under which they are told
    search_service   where models search the web; None: nowhere
    search_url       the service's address, where it is not the usual one
    search_key_file  holds the service's key; None: it is in the environment
    fetch_pages      models may fetch pages of the web
    fetch_sites      of these sites only; none: of all but fetch_blocked_sites
    fetch_any_address  also pages that nobody in the conversation has mentioned
    fetch_allowed    addresses of pages that may be called though they are not public, as outgoing_allowed
    fetch_http       pages may be called without TLS
    mcp_config       names the MCP servers whose functions models may call
    runs_code        models may run programs, where a sandbox holds
    """

    host: str = "127.0.0.1"
    port: int = 8000
    runware_port: int | None = None
    backend: Literal["embedded", "scripted", "upstream"] = "embedded"
    model_path: Path | None = None
    profile: str | None = None
    api_keys: tuple[str, ...] = ()
    max_concurrency: int = 8
    max_queue_tokens: int = 1_000_000
    cache_bytes: int = 1 << 30
    state_dir: Path | None = None
    disk_cache_bytes: int = 4 << 30
    engine: EngineName = "auto"
    isa: InstructionSet | None = None
    weights: WeightFormats = WeightFormats()
    is_mapped: bool = False
    packed_dir: Path | None = None
    num_threads: int | None = None
    keep_alive_s: float = 10.0
    request_timeout_s: float = 600.0
    shutdown_grace_s: float = 10.0
    replay_answers: int = 1000
    replay_bytes: int = 64 * 1024 * 1024
    replay_s: float = 86_400.0
    kept_responses: int = 1000
    kept_responses_bytes: int = 64 * 1024 * 1024
    kept_responses_s: float = 30 * 86_400.0
    kept_turns_bytes: int = 64 * 1024 * 1024
    kept_turns_s: float = 7 * 86_400.0
    prices_file: Path | None = None
    is_strict: bool = False
    answer_checks: CheckPolicy | None = None
    check_retries: int = 1
    difficulty: EstimatorName = "signs"
    script_path: Path | None = None
    upstream: str | None = None
    upstream_key_file: Path | None = None
    upstream_models: Mapping[str, str] = {}
    upstreams: tuple[UpstreamSettings, ...] = ()
    chains: Mapping[str, tuple[str, ...]] = {}
    fleet: FleetSettings = FleetSettings()
    limits: Limits = Limits()
    tasks: TaskLimits = TaskLimits()
    sockets: SocketLimits = SocketLimits()
    tool_limits: ToolLimits = ToolLimits()
    outgoing_allowed: tuple[str, ...] = ()
    outgoing_http: bool = False
    search_folders: Mapping[str, Path] = {}
    search_service: SearchServiceName | None = None
    search_url: str | None = None
    search_key_file: Path | None = None
    fetch_pages: bool = False
    fetch_sites: tuple[str, ...] = ()
    fetch_blocked_sites: tuple[str, ...] = ()
    fetch_any_address: bool = False
    fetch_allowed: tuple[str, ...] = ()
    fetch_http: bool = False
    mcp_config: Path | None = None
    runs_code: bool = False
    code: CodeLimits = CodeLimits()


def default_state_dir() -> Path:
    """Where this platform keeps an application's state for one user."""
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "deepserve"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "deepserve"
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "deepserve"
