"""How lines of the log look: for people, or one JSON object each."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec
from typing_extensions import override

from deepserve.config import LogFormat, Settings

_TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class TextLines(logging.Formatter):
    """`request answered request_id=… model=…`: fields follow the message."""

    def __init__(self) -> None:
        super().__init__(_TEXT)

    @override
    def formatMessage(self, record: logging.LogRecord) -> str:
        fields = "".join(f" {name}={_plain(value)}" for name, value in _fields(record).items())
        return super().formatMessage(record) + fields


class JsonLines(logging.Formatter):
    """`time` in UTC, `level`, `logger`, `message`, what the line says in fields, and `exception` where there is one."""

    @override
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {  # Any: values of fields
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line).decode()


def set_up_logging(settings: Settings) -> None:
    """To standard error, as the settings want it. May be said again when they change."""
    root = logging.getLogger()
    formatter = formatter_of(settings.log_format)
    if not root.handlers:
        root.addHandler(logging.StreamHandler())
    for handler in root.handlers:
        handler.setFormatter(formatter)
    root.setLevel(settings.log_level.upper())
    # At `info` it tells of every table that it makes.
    logging.getLogger("alembic").setLevel(logging.WARNING if settings.log_level == "info" else logging.NOTSET)


def formatter_of(name: LogFormat) -> logging.Formatter:
    return JsonLines() if name == "json" else TextLines()


def _fields(record: logging.LogRecord) -> Mapping[str, Any]:  # Any: as above
    found = getattr(record, "fields", None)
    return found if isinstance(found, Mapping) else {}


def _plain(value: object) -> str:
    text = str(value)
    return text if text and not set(text) & set(' "=\n\r') else msgspec.json.encode(text).decode()
