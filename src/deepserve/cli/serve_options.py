"""The options of `deepserve serve`, in groups. Whatever has none is set in the configuration file."""

from __future__ import annotations

from deepserve.cli.setting_option import Function, options, setting_option
from deepserve.cli.settings import ANSWERS, ENGINE, STORAGE, model_options, prices_option, storage_options
from deepserve.cli.tool_options import tool_options
from deepserve.cli.upstream_options import upstream_options

_SERVER = "Where it listens, and for whom"
_WEBHOOKS = "Webhooks"


def serve_options(function: Function) -> Function:
    """All of them; each is None where it is not given."""
    return options(
        setting_option("host", group=_SERVER, help="Address to listen on; others than loopback need keys."),
        setting_option("port", group=_SERVER, help="0 picks a free one."),
        setting_option(
            "runware_port",
            group=_SERVER,
            help="Listen here too. Runware's Python SDK streams to no other local address than http://localhost:8080.",
        ),
        setting_option(
            "workers",
            group=_SERVER,
            help="Processes that answer here. More than one only without our own engine, as with --upstream.",
        ),
        setting_option(
            "api_keys",
            "--api-key",
            group=_SERVER,
            metavar="KEY",
            help="A key clients must send; may be repeated. Better kept in a file, in DEEPSERVE_API_KEYS, or made by "
            "`deepserve keys`.",
        ),
        setting_option(
            "api_keys_file", group=_SERVER, help="Holds keys clients may send, one on a line; # begins a comment."
        ),
        setting_option("log_level", group=_SERVER),
        setting_option("log_format", group=_SERVER),
        model_options,
        setting_option("max_concurrency", group=ENGINE, help="Answers computed side by side; more wait their turn."),
        upstream_options,
        storage_options,
        setting_option(
            "answer_checks",
            "--check-answers",
            group=ANSWERS,
            help="What to do about answers whose form the back end does not enforce. The embedded engine enforces it "
            "itself.",
        ),
        setting_option(
            "check_retries",
            group=ANSWERS,
            help="How often an answer that misses its form may be asked for again.",
        ),
        setting_option(
            "difficulty",
            group=ANSWERS,
            help="How deepseek-v4-auto tells hard requests: by signs in the question, or by asking the model, which "
            "costs.",
        ),
        setting_option(
            "explains_cache",
            "--explain-cache",
            group=STORAGE,
            help="Remember each tenant's last requests, in memory only, to tell why they missed the prefix cache: "
            "`deepserve cache explain`.",
        ),
        setting_option("is_strict", "--strict", group=ANSWERS, help="Reproduce every refusal of the vendor's API."),
        prices_option,
        tool_options,
        setting_option(
            "outgoing_allowed",
            "--allow-webhooks-to",
            group=_WEBHOOKS,
            metavar="ADDRESS",
            help="Let webhooks reach an address that is not public: host:port or a network such as 10.1.0.0/16. "
            "Repeatable.",
        ),
        setting_option(
            "outgoing_http",
            "--webhooks-over-http",
            group=_WEBHOOKS,
            help="Take webhook addresses without TLS too.",
        ),
    )(function)
