"""Options for answers that come from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

import click

from deepserve.catalog.providers import read_upstream
from deepserve.cli.setting_option import Function, SettingOption, options, setting_option
from deepserve.config import UpstreamSettings
from deepserve.core.errors import ConfigurationError

_GROUP = "Answers from elsewhere"


def upstream_options(function: Function) -> Function:
    """Who answers in place of the embedded model."""
    return options(
        click.option(
            "--upstream",
            cls=SettingOption,
            group=_GROUP,
            metavar="NAME|URL|KIND=URL",
            multiple=True,
            callback=_read_upstreams,
            help="Pass questions on: deepseek, openrouter, deepinfra, …; or any address that speaks Chat Completions; "
            "or what stands there, as in deepserve=http://10.0.0.7:8000/v1; or embedded, our own engine. Repeatable: "
            "where the first cannot answer, the next is asked.",
        ),
        setting_option(
            "upstream_key_file",
            group=_GROUP,
            help="Holds the upstream's key, in place of the environment (DEEPSEEK_API_KEY, OPENROUTER_API_KEY, …).",
        ),
        setting_option(
            "upstream_tokenizer",
            group=_GROUP,
            help="The folder with the tokenizer.json of what vLLM, SGLang or llama.cpp serves. They are given token "
            "ids then, and every feature is as with our own engine; several servers: vllm=http://a,http://b.",
        ),
        setting_option(
            "upstream_models",
            "--upstream-model",
            group=_GROUP,
            metavar="ID=NAME",
            multiple=True,
            read=name_models,
            help="The upstream's name for a model, as in deepseek-v4-flash=my-flash; only named ones are served. "
            "Repeatable.",
        ),
    )(function)


def _read_upstreams(context: click.Context, _: click.Parameter, given: Sequence[str]) -> str | None:
    """One is the setting `upstream`; several are another, `upstreams`."""
    if len(given) < 2:
        return given[0] if given else None
    upstreams: list[UpstreamSettings] = []
    for wanted in given:
        try:
            upstreams.append(read_upstream(wanted, taken=[one.id for one in upstreams]))
        except ConfigurationError as error:
            raise click.BadParameter(error.message) from error
    context.params["upstreams"] = tuple(upstreams)
    return None


def name_models(entries: Sequence[str]) -> dict[str, str]:
    """`deepseek-v4-flash=my-flash` -> our id and the upstream's name."""
    models: dict[str, str] = {}
    for entry in entries:
        model_id, _, name = (word.strip() for word in entry.partition("="))
        if not model_id or not name:
            raise click.BadParameter(f"{entry!r} is not ID=NAME; write for example deepseek-v4-flash=my-flash.")
        if model_id in models:
            raise click.BadParameter(f"{model_id} is named twice.")
        models[model_id] = name
    return models
