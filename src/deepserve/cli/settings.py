"""Options that several commands share, and the settings that they, the environment and the file make together."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

import click
import msgspec

from deepserve.cli.setting_option import Function, SettingOption, options, setting_option
from deepserve.config import Settings, WeightFormat, WeightFormats, default_state_dir
from deepserve.configuration.configuration import FILE_NAME, Configuration, load_configuration
from deepserve.configuration.environment import FILE_VARIABLE
from deepserve.configuration.quantities import read_seconds, read_size

if TYPE_CHECKING:
    from deepserve.store.database import Database

_FILE_KEY = "deepserve.configuration file"

MODEL = "What answers"
ENGINE = "How the engine runs it"
STORAGE = "What is kept"
ANSWERS = "How answers are checked, routed and priced"


def config_option(function: Function) -> Function:
    """Names the configuration file, once for each command. Its other options are read in the light of it."""
    if any(parameter.name == "config" for parameter in getattr(function, "__click_params__", ())):
        return function
    return click.option(
        "--config",
        metavar="FILE",
        type=click.Path(path_type=Path, exists=True),
        expose_value=False,
        is_eager=True,
        callback=_remember_file,
        help=f"Read settings from here. Default: what {FILE_VARIABLE} names, or {FILE_NAME} in your configuration "
        "folder.",
    )(function)


def name_checkpoints(entries: Sequence[str]) -> dict[str, Path]:
    """`deepseek-v4-pro=PATH` -> our id and a folder."""
    folders: dict[str, Path] = {}
    for entry in entries:
        model_id, _, rest = (word.strip() for word in entry.partition("="))
        if not model_id or not rest:
            raise click.BadParameter(f"{entry!r} is not ID=PATH; write for example deepseek-v4-pro=/models/v4-pro.")
        path = Path(rest).expanduser()
        if not path.is_dir():
            raise click.BadParameter(f"{str(path)!r} is not a folder.")
        if model_id in folders:
            raise click.BadParameter(f"{model_id} is named twice.")
        folders[model_id] = path
    return folders


def _remember_file(context: click.Context, _: click.Parameter, file: Path | None) -> None:
    if file is not None:
        context.meta[_FILE_KEY] = file


def model_options(function: Function) -> Function:
    """What answers: the back end, the model, and how the engine runs it."""
    return options(
        setting_option(
            "backend",
            group=MODEL,
            metavar="[embedded|scripted]",
            help="embedded: our V4 engine. scripted: a deterministic fake for testing clients.",
        ),
        setting_option(
            "model_path",
            "--model",
            group=MODEL,
            metavar="PATH",
            help="A DeepSeek V4 checkpoint folder, for every model; by default the small models that ship.",
        ),
        setting_option(
            "model_paths",
            "--model-for",
            group=MODEL,
            metavar="ID=PATH",
            multiple=True,
            read=name_checkpoints,
            help="A checkpoint folder for one model, as in deepseek-v4-pro=PATH. Repeatable.",
        ),
        setting_option("profile", group=MODEL, help="Prompt format of the checkpoint, where its name does not tell."),
        setting_option("script_path", "--script", group=MODEL, help="What the scripted backend answers."),
        setting_option(
            "engine",
            group=ENGINE,
            help="native: the core in C++. reference: PyTorch, slower. auto: native where it is installed.",
        ),
        setting_option(
            "cache_bytes",
            "--cache-memory",
            group=ENGINE,
            help="Memory for sequences and cached prefixes, e.g. 512m or 8g.",
        ),
        _weights_option,
        setting_option(
            "is_mapped",
            "--mapped",
            group=ENGINE,
            help="Use the checkpoint's files where they lie; for models that hardly fit into memory. Slower.",
        ),
        setting_option(
            "packed_dir",
            group=ENGINE,
            help="Keep the weights here as the engine packs them, for faster starts; as large as the model.",
        ),
        setting_option(
            "isa", group=ENGINE, help="Instruction set to compute with; by default the best this machine has."
        ),
        setting_option(
            "num_threads",
            "--threads",
            group=ENGINE,
            help="Compute threads; by default one, and more only for a model large enough to gain by it.",
        ),
        config_option,
    )(function)


def _weights_option(function: Function) -> Function:
    return click.option(
        "--weights",
        cls=SettingOption,
        group=ENGINE,
        metavar="FORMAT",
        default=None,
        callback=lambda _context, _parameter, value: None if value is None else parse_weights(value),
        help=(
            f"How matrices are kept and multiplied: {', '.join(get_args(WeightFormat))}; for some only: "
            "dense=int8,experts=fp4,head=bf16. auto, the default: as the checkpoint stores them."
        ),
    )(function)


STATE_HELP = f"Where keys and records are kept.  [default: as configured, else {default_state_dir()}]"


DATABASE_HELP = (
    "Keep records there, and not in a file of the state directory: postgresql://USER@HOST:PORT/NAME, for several "
    "servers that share them."
)


def database_option(function: Function) -> Function:
    """For commands that look into a server's database: they get its `settings`, to open it by."""

    @functools.wraps(function)
    def with_settings(**given: Any) -> Any:  # Any: options as click hands them over, and what the command returns
        settings = settings_from(state_dir=given.pop("state_dir"), database=given.pop("database"))
        return function(**given, settings=settings)

    decorated = options(
        click.option("--state-dir", metavar="PATH", type=click.Path(path_type=Path, file_okay=False), help=STATE_HELP),
        click.option("--database", metavar="ADDRESS", help="What `serve` was given.  [default: as configured]"),
        config_option,
    )(with_settings)
    return cast(Function, decorated)


def open_kept(settings: Settings) -> Database:
    """The database of a server with these settings, until the running command ends."""
    # Here and not above: commands that open none are spared a tenth of a second.
    from deepserve.store.database import open_configured

    database = open_configured(settings)
    click.get_current_context().call_on_close(database.dispose)
    return database


def storage_options(function: Function) -> Function:
    """Where things are kept, what, and for how long."""
    return options(
        setting_option("state_dir", group=STORAGE, help=STATE_HELP),
        setting_option("database", group=STORAGE, metavar="ADDRESS", help=DATABASE_HELP),
        setting_option(
            "secret_file",
            group=STORAGE,
            help="Random bytes, the same for all servers of one database, that seal traces and sign webhooks. Default: "
            "made in the state directory.",
        ),
        setting_option(
            "disk_cache_bytes",
            "--disk-cache",
            group=STORAGE,
            help="Most that cached prefixes may take in the state directory; 0 keeps none.",
        ),
        setting_option(
            "kept_turns_s",
            "--keep-turns",
            group=STORAGE,
            metavar="DAYS",
            read=_read_days,
            help="Keep turns with tools so long in the state directory, for clients that send no thinking traces back; "
            "0 keeps none.",
        ),
        setting_option(
            "kept_responses_s",
            "--keep-responses",
            group=STORAGE,
            metavar="DAYS",
            read=_read_days,
            help="Keep answers of the Responses API so long in the state directory, for clients that continue them and "
            "do not say store: false; 0 keeps none.",
        ),
    )(function)


prices_option = setting_option(
    "prices_file",
    "--prices",
    group=ANSWERS,
    help="Your own price table, which goes before the one that ships; a server reads it again when it changes.",
)


def _read_days(text: str) -> float:
    """Days, as a number or with another unit. Raises click.BadParameter."""
    try:
        seconds = float(text) * 86_400
    except ValueError:
        seconds = -1.0 if (read := read_seconds(text)) is None else read
    if not 0 <= seconds < math.inf:
        raise click.BadParameter(f"{text!r} is no number of days; write for example 7 or 0.5, or 12h.")
    return seconds


def parse_size(text: str) -> int:
    """`512m` -> bytes; units k, m, g, t of 1024, with or without b."""
    size = read_size(text)
    if not size:
        raise click.BadParameter(f"{text!r} is not a size; write for example 512m or 8g.")
    return size


def parse_weights(text: str) -> WeightFormats:
    """`int8` -> all matrices in int8; `dense=int8,experts=fp4` -> these two, the others as the checkpoint has them."""
    parts = WeightFormats.__struct_fields__
    formats: dict[str, str] = {}
    for entry in text.split(","):
        part, is_assigned, name = (word.strip() for word in entry.rpartition("="))
        if name not in get_args(WeightFormat) or (is_assigned and part not in parts):
            raise click.BadParameter(
                f"{entry!r} is neither a format ({', '.join(get_args(WeightFormat))}) nor PART=FORMAT "
                f"with one of the parts {', '.join(parts)}."
            )
        for named in (part,) if is_assigned else parts:
            if named in formats:
                raise click.BadParameter(f"{text!r} gives two formats for {named}.")
            formats[named] = name
    return msgspec.convert(formats, WeightFormats)


def configuration_from(**given: Any) -> Configuration:  # Any: options as click hands them over
    """The settings in force, where these options of the running command go before everything else."""
    return load_configuration(given, file=named_file())


def settings_from(**given: Any) -> Settings:  # Any: as above
    """As `configuration_from`; None among the options means that one is not given."""
    return configuration_from(**given).settings


def passing_settings_from(**given: Any) -> Settings:  # Any: as above
    """For commands that answer here and now: nothing is kept, and a running server's files are left alone."""
    return msgspec.structs.replace(settings_from(**given), state_dir=None, database=None)


def named_file() -> Path | None:
    """What --config of the running command names."""
    context = click.get_current_context(silent=True)
    file = None if context is None else context.meta.get(_FILE_KEY)
    assert file is None or isinstance(file, Path)
    return file
