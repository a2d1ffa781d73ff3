"""What the doctor says of the configuration, of files with secrets, and of the place where records are kept."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from deepserve.cli.findings import Findings
from deepserve.cli.keys import open_keys
from deepserve.config import Settings
from deepserve.configuration.configuration import Configuration, usual_file
from deepserve.core.errors import DeepserveError
from deepserve.store.checkup import look_at_database
from deepserve.store.database import HEAD, show_place

_LITTLE_BYTES: Final = 1 << 30
_TOO_LITTLE_BYTES: Final = 64 << 20

_OTHERS_READ: Final = stat.S_IRGRP | stat.S_IROTH | stat.S_IWGRP | stat.S_IWOTH
_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH


def check_configuration(configuration: Configuration, findings: Findings) -> None:
    """What was read, and who else could read or change it."""
    file = configuration.file
    if file is None:
        findings.say("ok", "configuration", f"no file; {usual_file()} would be read")
    elif _mode(file) & _OTHERS_WRITE:
        detail = f"{file} can be changed by others, and it says where keys are sent: chmod go-w {file}"
        findings.say("warn", "configuration", detail)
    else:
        num_set = sum(origin.layer != "default" for origin in configuration.origins.values())
        findings.say("ok", "configuration", f"{file}, {num_set} settings given")
    for note in configuration.notes:
        findings.say("warn", "configuration", note)
    for name, secret in _secret_files(configuration.settings):
        if _mode(secret) & _OTHERS_READ:
            findings.say("warn", name, f"{secret} can be read by others: chmod 600 {secret}")
        elif not os.access(secret, os.R_OK):
            findings.say("fail", name, f"{secret} cannot be read by this user")
        else:
            findings.say("ok", name, f"{secret}, for this user's eyes only")


def _secret_files(settings: Settings) -> Iterator[tuple[str, Path]]:
    named = {
        "api_keys_file": settings.api_keys_file,
        "upstream_key_file": settings.upstream_key_file,
        "search_key_file": settings.search_key_file,
        **{f"key of {upstream.id}": upstream.key_file for upstream in settings.upstreams},
    }
    return ((name, file) for name, file in named.items() if file is not None)


def _mode(file: Path) -> int:
    """Windows has no such modes: files lie in the user's own profile there."""
    if os.name != "posix":
        return 0
    try:
        status = file.stat()
    except OSError:
        return 0
    return stat.S_IMODE(status.st_mode) if stat.S_ISREG(status.st_mode) else 0


def check_database(settings: Settings, findings: Findings) -> None:
    """Whether it is there, whose release wrote it, whether it takes more; nothing in it is changed."""
    shown = show_place(settings) if settings.database else str(settings.state_dir)
    state = look_at_database(settings)
    if state.problem is not None:
        findings.say("fail", "state", f"The database {shown} cannot be used: {state.problem}")
    elif not state.exists:
        findings.say("ok", "state", f"{shown} (will be created)")
    elif state.is_current:
        _check_keys(settings, shown, findings)
    elif state.is_older:
        was = "is empty" if state.version is None else f"has tables of version {state.version}, not {HEAD}"
        findings.say("ok", "state", f"{shown} {was}: the next start brings it up to date")
    else:
        detail = f"{shown} was written by a newer release (tables {state.version}, here {HEAD}): use that one"
        findings.say("fail", "state", detail)
    if state.free_bytes is not None:
        free = f"{state.free_bytes / 1e9:,.1f} GB beneath {settings.state_dir}"
        if state.free_bytes < _TOO_LITTLE_BYTES:
            findings.say("fail", "free space", f"{free}: too little to keep records; make room, or use --state-dir")
        elif state.free_bytes < _LITTLE_BYTES:
            findings.say("warn", "free space", f"{free}: little for cached prefixes and records")
        else:
            findings.say("ok", "free space", free)


def _check_keys(settings: Settings, shown: str, findings: Findings) -> None:
    try:
        has_keys = bool(settings.api_keys) or open_keys(settings).has_any()
    except DeepserveError as error:
        findings.say("fail", "state", error.message)
    else:
        findings.say("ok", "state", f"{shown} ({'keys required' if has_keys else 'no keys: this machine only'})")
