"""Every setting of a server, in one frozen value. A reload swaps in a new one; requests in flight keep theirs.

What stands here is all there is to say about a setting: its name, type, range, default and description make the
configuration file, its variables of the environment and their documentation (`configuration`). A structure documents
its fields in its docstring, a line each: the name, then what it means; where a line reads on, the next ones do.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec

Port = Annotated[int, msgspec.Meta(ge=0, le=65_535)]
Count = Annotated[int, msgspec.Meta(ge=0)]
Positive = Annotated[int, msgspec.Meta(ge=1)]
Seconds = Annotated[float, msgspec.Meta(gt=0)]
SecondsOrNone = Annotated[float, msgspec.Meta(ge=0)]
"""0 has a meaning of its own, which the setting says."""

Rate = Annotated[float, msgspec.Meta(gt=0)]

Secret = Annotated[str, msgspec.Meta(extra={"is_secret": True})]
"""Never written into a configuration file, never shown."""

VariableName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}$")]
"""Of a variable of the environment."""

File = Annotated[Path, msgspec.Meta(extra={"exists": "file"})]
Folder = Annotated[Path, msgspec.Meta(extra={"exists": "folder"})]
"""These must be there; any other path is made, or may be missing."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Upper bounds on what one client may send; each has its own error.

    connections         open at once; further requests are refused with 503. Many systems allow a process 1024 files
    body_bytes          size of a body,
    json_depth          how deep its JSON may be nested,
    json_members        and how many members and items it may have in all
    header_bytes        all header fields of a request together,
    header_fields       and their number
    request_line_bytes  the address with its query
    messages            of one conversation
    tools               that a client may offer in one request
    stop_strings        in one request,
    stop_string_bytes   and the size of each
    logit_bias_entries  in one request
    num_results         answers to one request
    user_id_bytes       of the name that a client gives to its own user
    headers_timeout_s   for the head of a request to arrive
    body_timeout_s      between two pieces of a body;
    body_grace_s        after so long it must have come, on average since then,
    body_bytes_per_s    at least so fast
    send_timeout_s      a client that takes nothing for so long is left
    """

    connections: Positive = 800
    body_bytes: Positive = 32 * 1024 * 1024
    json_depth: Positive = 64
    json_members: Positive = 100_000
    header_bytes: Positive = 32 * 1024
    header_fields: Positive = 100
    request_line_bytes: Positive = 8 * 1024
    messages: Positive = 10_000
    tools: Count = 128
    stop_strings: Count = 16
    stop_string_bytes: Positive = 1024
    logit_bias_entries: Count = 300
    num_results: Positive = 16
    user_id_bytes: Positive = 512
    headers_timeout_s: Seconds = 10.0
    body_timeout_s: Seconds = 30.0
    body_grace_s: Seconds = 30.0
    body_bytes_per_s: Rate = 16_384.0
    send_timeout_s: Seconds = 60.0


class TaskLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds on answers that come later.

    max_running        tasks carried out side by side
    max_attempts       how often a task is begun that dies with the server each time
    max_unfinished_per_tenant  more are refused
    max_bytes_per_tenant  contents of unfinished tasks; of ended ones, too, where the oldest lose theirs beyond it
    patience_s         so long a task waits for a back end that has no room
    lease_s            what a server died over is taken up by another one after so long
    record_s           an id cannot be used again for so long after its task has ended
    delivery_record_s  webhook calls and their attempts can be looked up for so long
    """

    max_running: Positive = 4
    max_attempts: Positive = 3
    max_unfinished_per_tenant: Positive = 1000
    max_bytes_per_tenant: Positive = 256 * 1024 * 1024
    patience_s: Seconds = 86_400.0
    lease_s: Seconds = 30.0
    record_s: Seconds = 30 * 86_400.0
    delivery_record_s: Seconds = 7 * 86_400.0


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

    login_s: Seconds = 15.0
    idle_s: Seconds = 120.0
    resume_s: Seconds = 120.0
    resume_bytes: Positive = 8 * 1024 * 1024
    sessions: Positive = 1000
    frame_bytes: Positive = 1024 * 1024
    message_bytes: Positive = 32 * 1024 * 1024
    num_tasks: Positive = 100


class WaitLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds on requests that come faster than the limits of their keys allow.

    wait_s           so long one waits for its turn before it is refused; 0: not at all
    places           so many may wait; a tenant that fills them all loses places to others
    """

    wait_s: SecondsOrNone = 10.0
    places: Count = 1000


class ToolLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds on what tools that the server runs may take for one answer.

    rounds             how often the model may call them and go on
    calls              in all, of which
    parallel_calls     run at once
    call_s             a call that takes longer has failed
    total_s            after so long no more calls are made
    total_tokens       prompt and output of all rounds; beyond it no more calls are made
    result_characters  of a result, the model reads no more
    kept_bytes         results of earlier answers that are kept for one tenant
    """

    rounds: Positive = 8
    calls: Positive = 32
    parallel_calls: Positive = 8
    call_s: Seconds = 60.0
    total_s: Seconds = 300.0
    total_tokens: Positive = 2_000_000
    result_characters: Positive = 100_000
    kept_bytes: Positive = 16 * 1024 * 1024


class DatabaseLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds on the use of a PostgreSQL server.

    connections  that one process opens at most
    connect_s    to open one; in whole seconds
    wait_s       until one is free
    statement_s  that one statement may take
    """

    connections: Positive = 10
    connect_s: Seconds = 5.0
    wait_s: Seconds = 10.0
    statement_s: Seconds = 30.0


class LedgerLimits(msgspec.Struct, frozen=True, kw_only=True):
    """When a row of the ledger is safe, and how long the database may take for it.

    sync            normal: a row outlives the process; full: a loss of power, too, which costs a wait for the disk
    refuse_after_s  a row waits longer: no new requests are taken until the database works again
    wait_s          an answer waits so long for its row, which then goes to a file of the state directory
    waiting_rows    more that wait are as bad as waiting long
    """

    sync: Literal["normal", "full"] = "normal"
    refuse_after_s: Seconds = 2.0
    wait_s: Seconds = 5.0
    waiting_rows: Positive = 10_000


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
    first_uid: Positive = 64_700
    max_sessions: Positive = 8
    max_sessions_per_tenant: Positive = 2
    waiting: Count = 1
    cell_s: Seconds = 30.0
    cell_cpu_s: Seconds = 20.0
    session_cpu_s: Seconds = 300.0
    idle_s: Seconds = 600.0
    life_s: Seconds = 1800.0
    memory_bytes: Positive = 1 << 30
    session_files: Positive = 4096
    session_bytes: Positive = 64 * 1024 * 1024
    file_bytes: Positive = 32 * 1024 * 1024
    code_bytes: Positive = 256 * 1024
    output_bytes: Positive = 64 * 1024
    output_read_bytes: Positive = 1024 * 1024
    files_back: Count = 10
    file_back_bytes: Positive = 1024 * 1024


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
    tokenizer       for vLLM, SGLang and llama.cpp: a folder with the tokenizer.json of the checkpoint they serve. They
                    are given token ids then; None: they are spoken to in Chat Completions
    profile         of their prompts: 0731, preview or mini, where the folder's name does not tell
    replicas        more addresses at which the same is served, for those that are given token ids
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
    key_file: File | None = None
    key_variable: VariableName | None = None
    models: Mapping[str, str] = {}
    tokenizer: Folder | None = None
    profile: str | None = None
    replicas: tuple[str, ...] = ()
    max_concurrent: Positive | None = None
    connect_s: Seconds | None = None
    first_event_s: Seconds | None = None
    idle_s: Seconds | None = None
    num_retries: Count | None = None
    is_self_hosted: bool = False
    region: str | None = None
    collects_data: bool | None = None


class FleetSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How several back ends act as one.

    max_waiting   requests that may wait until one of those who could answer has room; more are refused
    wait_s        and the longest they do
    max_repeated_characters  an answer that goes on repeating one piece of text for so long is ended; 0: none is
    hedge_s       a second member is asked, too, when the first has not begun after so long; None: never
    canary_s      every member is asked a small question so often, which costs money; None: never
    """

    max_waiting: Count = 1000
    wait_s: Seconds = 10.0
    max_repeated_characters: Count = 65_536
    hedge_s: Seconds | None = None
    canary_s: Seconds | None = None


LogLevel = Literal["debug", "info", "warning", "error"]

LogFormat = Literal["text", "json"]


class TelemetrySettings(msgspec.Struct, frozen=True, kw_only=True):
    """Traces for OpenTelemetry.

    traces_url        where a collector takes them by OTLP over HTTP, as http://localhost:4318/v1/traces; None: where
                      the environment says (OTEL_EXPORTER_OTLP_ENDPOINT), or nowhere
    includes_content  what is said to models, and what they answer, stands in them, too
    """

    traces_url: str | None = None
    includes_content: bool = False


ProfileName = Literal["0731", "preview", "mini"]


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Counts of tokens and bytes carry their unit in the name; times are seconds.

    host             address to listen on; others than loopback need keys
    port             0: any free one
    runware_port     listen here too, for Runware's clients that stream to one fixed local address; None: do not
    workers          processes that answer at this address; more than one only without our own engine
    api_keys         keys that may use the server; none, here and in the state directory: everybody on this machine is
                     one local tenant
    api_keys_file    holds more of them, one on a line; what follows a # is not read
    keep_alive_s     a waiting client hears something at least this often
    request_timeout_s  an answer without any progress for so long is given up
    shutdown_grace_s running answers may take so long to finish when the server stops; then they are ended
    log_level        the least that is logged; `info` has a line for each request
    log_format       lines for people, or one JSON object each
    backend          embedded: our V4 engine. scripted: a deterministic fake, for testing clients. upstream: others
    model_path       a checkpoint folder that answers for every model; None: those that ship
    model_paths      model id -> the checkpoint folder that answers for it alone
    profile          prompt profile of a foreign checkpoint; None: decided from its name
    script_path      what the scripted back end answers; None: its own few words
    engine           auto: the native engine where it is installed, else the PyTorch reference
    isa              instruction set of the native engine; None: the best this machine has
    is_mapped        use the checkpoint's files where they lie, for models that hardly fit into memory; slower
    packed_dir       keep the weights here as the native engine packs them, for faster starts; as large as the model
    num_threads      that compute; None: one, and more only for a model large enough to gain by it
    max_concurrency  sequences decoded side by side
    max_queue_tokens prompt tokens that may wait before new requests are refused
    cache_bytes      memory for sequence states and cached prefixes
    disk_cache_bytes most that cached prefixes may take in the state directory; 0: none are written or read
    state_dir        where what must survive a restart is kept; None: nowhere
    database         address of a PostgreSQL server that keeps it instead, for several servers; None: a file there
    secret_file      random bytes, the same for all servers of a database, that seal traces and sign webhooks; None:
                     made in the state directory
    replay_answers   complete answers kept for repetitions with the same Idempotency-Key,
    replay_bytes     their size together,
    replay_s         and how long each is kept
    kept_responses   responses kept for each tenant, for clients to continue or ask for again; 0: none
    kept_responses_bytes  their size together, compressed,
    kept_responses_s and how long each is kept; 0: none are
    kept_turns_bytes most that turns with tools may take in the state directory for one tenant, compressed,
    kept_turns_s     and how long each is kept, for clients that do not send thinking traces back; 0: none
    explains_cache   the last requests of each tenant are remembered, contents included, so that it can be told why they
                     found little in the prefix cache; in memory only
    is_strict        reproduce the vendor's refusals for every request
    answer_checks    what to do about answers whose form the back end does not enforce; None: as suits the back end
    check_retries    how often such an answer may be asked for again
    difficulty       how the difficulty of a request is found where its model is open
    prices_file      the operator's price table, which goes before the shipped one; read again whenever it changes
    upstream         who answers for the back end `upstream`: a row of catalog/providers.toml, an address, KIND=ADDRESS
    upstream_key_file  holds the key for it; None: it is in the environment
    upstream_tokenizer  folder with its tokenizer, where it is to be given token ids; the profile is `profile`
    upstream_models  our ids -> its names of the models, where they are not those of the row
    upstreams        more than one of them, or with more said of each; with `upstream` they make one back end
    chains           model id -> ids of upstreams in the order in which they are asked; `embedded` is our own engine.
                     A model without one is asked of all that have it, in the order of `upstreams`
    fleet            how several of them act as one
    outgoing_allowed addresses of webhooks that may be called though they are not public: host:port, or a network
    outgoing_http    webhooks may be called without TLS
    search_folders   folders that models may search, by the names under which they are told
    search_service   where models search the web; None: nowhere
    search_url       the service's address, where it is not the usual one
    search_key_file  holds the service's key; None: it is in the environment
    fetch_pages      models may fetch pages of the web
    fetch_sites      of these sites only; none: of all but
    fetch_blocked_sites  these
    fetch_any_address  also pages that nobody in the conversation has mentioned
    fetch_allowed    addresses of pages that may be called though they are not public, as outgoing_allowed
    fetch_http       pages may be called without TLS
    mcp_config       names the MCP servers whose functions models may call
    runs_code        models may run programs, where a sandbox holds
    weights          how the native engine keeps its matrices
    tool_limits      what tools that the server runs may take for one answer
    code             programs that models run, and how they are walled in
    limits           what one client may send
    tasks            answers that come later
    sockets          WebSocket connections
    waiting          requests of keys with limits
    database_limits  use of a PostgreSQL server
    ledger           the record of what answers cost
    telemetry        traces of requests
    """

    host: str = "127.0.0.1"
    port: Port = 8000
    runware_port: Port | None = None
    workers: Positive = 1
    api_keys: tuple[Secret, ...] = ()
    api_keys_file: File | None = None
    keep_alive_s: Seconds = 10.0
    request_timeout_s: Seconds = 600.0
    shutdown_grace_s: SecondsOrNone = 10.0
    log_level: LogLevel = "warning"
    log_format: LogFormat = "text"

    backend: Literal["embedded", "scripted", "upstream"] = "embedded"
    model_path: Folder | None = None
    model_paths: Mapping[str, Folder] = {}
    profile: ProfileName | None = None
    script_path: File | None = None
    engine: EngineName = "auto"
    isa: InstructionSet | None = None
    weights: WeightFormats = WeightFormats()
    is_mapped: bool = False
    packed_dir: Path | None = None
    num_threads: Positive | None = None
    max_concurrency: Positive = 8
    max_queue_tokens: Positive = 1_000_000
    cache_bytes: Positive = 1 << 30
    disk_cache_bytes: Count = 4 << 30

    state_dir: Path | None = None
    database: str | None = None
    secret_file: Path | None = None
    replay_answers: Count = 1000
    replay_bytes: Count = 64 * 1024 * 1024
    replay_s: Seconds = 86_400.0
    kept_responses: Count = 1000
    kept_responses_bytes: Count = 64 * 1024 * 1024
    kept_responses_s: SecondsOrNone = 30 * 86_400.0
    kept_turns_bytes: Count = 64 * 1024 * 1024
    kept_turns_s: SecondsOrNone = 7 * 86_400.0

    explains_cache: bool = False
    is_strict: bool = False
    answer_checks: CheckPolicy | None = None
    check_retries: Count = 1
    difficulty: EstimatorName = "signs"
    prices_file: File | None = None

    upstream: str | None = None
    upstream_key_file: File | None = None
    upstream_tokenizer: Folder | None = None
    upstream_models: Mapping[str, str] = {}
    upstreams: tuple[UpstreamSettings, ...] = ()
    chains: Mapping[str, tuple[str, ...]] = {}
    fleet: FleetSettings = FleetSettings()

    outgoing_allowed: tuple[str, ...] = ()
    outgoing_http: bool = False

    search_folders: Mapping[str, Folder] = {}
    search_service: SearchServiceName | None = None
    search_url: str | None = None
    search_key_file: File | None = None
    fetch_pages: bool = False
    fetch_sites: tuple[str, ...] = ()
    fetch_blocked_sites: tuple[str, ...] = ()
    fetch_any_address: bool = False
    fetch_allowed: tuple[str, ...] = ()
    fetch_http: bool = False
    mcp_config: File | None = None
    runs_code: bool = False
    tool_limits: ToolLimits = ToolLimits()
    code: CodeLimits = CodeLimits()

    limits: Limits = Limits()
    tasks: TaskLimits = TaskLimits()
    sockets: SocketLimits = SocketLimits()
    waiting: WaitLimits = WaitLimits()
    database_limits: DatabaseLimits = DatabaseLimits()
    ledger: LedgerLimits = LedgerLimits()
    telemetry: TelemetrySettings = TelemetrySettings()


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """Settings that stand together in the configuration file: from the one named `first` to the next table's."""

    name: str
    first: str
    title: str


TABLES: Final = (
    Table(name="server", first="host", title="Where the server listens, who may use it, and its patience"),
    Table(name="model", first="backend", title="What answers, and how the engine runs it"),
    Table(name="storage", first="state_dir", title="What is kept, where, and for how long"),
    Table(name="answers", first="is_strict", title="How answers are checked, routed and priced"),
    Table(name="upstream", first="upstream", title="Answers that come from elsewhere"),
    Table(name="outgoing", first="outgoing_allowed", title="Webhooks"),
    Table(name="tools", first="search_folders", title="What models may search, read, call and run"),
)
"""In the order of the settings. One that is a structure, a mapping or a list of structures is a table of its own name;
all others stand in these, so that a new one needs no second place."""


LIVE: Final = frozenset(
    (
        *(
            "api_keys",
            "api_keys_file",
            "keep_alive_s",
            "request_timeout_s",
            "shutdown_grace_s",
            "log_level",
            "log_format",
        ),
        *("is_strict", "answer_checks", "check_retries", "difficulty"),
        *("upstream", "upstream_key_file", "upstream_tokenizer", "upstream_models", "upstreams", "chains", "fleet"),
        *("outgoing_allowed", "outgoing_http", "tool_limits", "limits", "tasks", "sockets", "waiting"),
    )
)
"""Settings of which a running server takes a change at once; any other waits for the next start. A name without a dot
stands for all that is in its table."""


def default_state_dir() -> Path:
    """Where this platform keeps an application's state for one user."""
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "deepserve"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "deepserve"
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "deepserve"
