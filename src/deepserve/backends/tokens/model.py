"""A model folder, read: everything about a checkpoint but the network, which is the engine's."""

from __future__ import annotations

import hashlib
import re
from importlib import resources
from pathlib import Path
from typing import Annotated

import msgspec

from deepserve.core.errors import CheckpointError, ConfigurationError
from deepserve.core.sampling import KNOBS
from deepserve.prompt.profile import PROFILE_NAMES, Profile, ProfileName, load_profile
from deepserve.prompt.tokenizer import Tokenizer


class GenerationDefaults(msgspec.Struct, frozen=True):
    """`generation_config.json`: how the model's makers want it sampled when nobody says otherwise.

    What the file leaves out is neutral, not what other libraries would put there.
    """

    do_sample: bool = True
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    eos_token_id: int | tuple[int, ...] | None = None
    max_new_tokens: Annotated[int, msgspec.Meta(ge=1)] | None = None

    def __post_init__(self) -> None:
        for name in ("temperature", "top_p", "top_k", "min_p", "repetition_penalty"):
            value = getattr(self, name)
            if value is not None and not KNOBS[name].admits(value):
                raise ValueError(f"`{name}` cannot be {value}")


class TokenModel(msgspec.Struct, frozen=True, kw_only=True):
    """name: the folder's. fingerprint: of tokenizer and profile; the engine has its own for the weights."""

    name: str
    folder: Path
    is_shipped: bool
    profile: Profile
    tokenizer: Tokenizer
    stop_tokens: frozenset[int]
    defaults: GenerationDefaults
    fingerprint: str


def shipped_folder(name: str = "mini-flash") -> Path:
    """Where a model lies, or would, that comes with the package."""
    return Path(str(resources.files("deepserve").joinpath("models", name)))


def load_model(
    folder: Path | None, profile: str | None = None, *, tokenizers: dict[bytes, Tokenizer] | None = None
) -> TokenModel:
    """Read a checkpoint folder, None for the one that ships and answers where nothing else is said.

    tokenizers: those read so far, by the contents of their files; models with the same one share it.

    Raises CheckpointError that names the file at fault, ConfigurationError for a profile that is unknown, cannot be
    told from the name, or whose texts are not installed.
    """
    folder = shipped_folder() if folder is None else folder
    is_shipped = folder.resolve() == shipped_folder(folder.name).resolve()
    if not folder.is_dir():
        raise CheckpointError(f"There is no model folder {folder}.")
    name = _name_of(folder)
    defaults = GenerationDefaults()
    defaults_path, tokenizer_path = _inside(folder, "generation_config.json"), _inside(folder, "tokenizer.json")
    if defaults_path.exists():
        defaults = _read_defaults(defaults_path)
    loaded_profile = load_profile(_choose_profile(name, profile, is_shipped=is_shipped))
    tokenizer = _read_tokenizer(tokenizer_path, {} if tokenizers is None else tokenizers)
    if defaults.temperature is None and loaded_profile.name == "mini":
        # Models this small are at their best when they say the likeliest.
        defaults = msgspec.structs.replace(defaults, temperature=0.0)
    stop_ids = defaults.eos_token_id if defaults.eos_token_id is not None else ()
    digest = hashlib.sha256(tokenizer_path.read_bytes() + loaded_profile.name.encode())
    return TokenModel(
        name=name,
        folder=folder,
        is_shipped=is_shipped,
        profile=loaded_profile,
        tokenizer=tokenizer,
        stop_tokens=frozenset({tokenizer.eos_id, *((stop_ids,) if isinstance(stop_ids, int) else stop_ids)}),
        defaults=defaults,
        fingerprint=digest.hexdigest(),
    )


def _read_tokenizer(path: Path, known: dict[bytes, Tokenizer]) -> Tokenizer:
    try:
        contents = hashlib.sha256(path.read_bytes()).digest()
    except OSError:
        return Tokenizer.from_file(path)  # which says what is wrong
    if contents not in known:
        known[contents] = Tokenizer.from_file(path)
    return known[contents]


def _inside(folder: Path, name: str) -> Path:
    """A file of the folder, there or not; a link may not lead out of it."""
    if not (folder / name).resolve().is_relative_to(folder.resolve()):
        raise CheckpointError(f"{folder}: {name} leads out of the model's folder.")
    return folder / name


def _name_of(folder: Path) -> str:
    """The folder's name, as it may stand in a header."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", folder.resolve().name).strip("-") or "model"


def _choose_profile(name: str, wanted: str | None, *, is_shipped: bool) -> ProfileName:
    """Releases of one architecture differ in their prompt texts, and no file in the checkpoint says which it is."""
    if wanted is not None:
        for known in PROFILE_NAMES:
            if known == wanted:
                return known
        raise ConfigurationError(f"There is no prompt profile {wanted}. There are: {', '.join(PROFILE_NAMES)}.")
    lowered = name.lower()
    if is_shipped or "mini" in lowered:
        return "mini"
    if re.search(r"0731|0813|vision-exp", lowered):
        return "0731"
    if re.search(r"deepseek-v4-(flash|pro)(-dspark|-base|-preview)?$", lowered):
        return "preview"
    raise ConfigurationError(
        f"The prompt profile of {name} cannot be told from its name. Say it with --profile: "
        f"{', '.join(PROFILE_NAMES)} (0731 for the releases since 31 July 2026, preview for those before)."
    )


def _read_defaults(path: Path) -> GenerationDefaults:
    try:
        return msgspec.json.decode(path.read_bytes(), type=GenerationDefaults)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}.") from error
    except msgspec.MsgspecError as error:
        raise CheckpointError(f"{path} is not what it should be: {error}.") from error
