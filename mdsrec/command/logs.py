"""Logging to standard error, as text or as JSON lines.

`MDSREC_LOG_FORMAT` is `text` (default) or `json`; `MDSREC_LOG` is the lowest level (`INFO`).
"""

import json
import logging
import os
import sys
from datetime import UTC, datetime
from typing import Any

from tqdm import tqdm

from mdsrec.credentials import redacted, remember_secrets
from mdsrec.errors import InputError

FORMAT_KEY, LEVEL_KEY = "MDSREC_LOG_FORMAT", "MDSREC_LOG"
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


class TextLines(logging.Formatter):
    """A formatter of lines of text without secrets."""

    def format(self, record: logging.LogRecord) -> str:
        return redacted(super().format(record))


class JsonLines(logging.Formatter):
    """A formatter that writes one JSON object per line, with time (UTC), level, run and rank.

    Numbers passed as `extra={"figures": {...}}` become keys of the object.
    """

    def __init__(self, context: dict[str, Any]) -> None:
        super().__init__()
        self._context = context

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            **self._context,
            "message": redacted(record.getMessage()),
            **getattr(record, "figures", {}),
        }
        if record.exc_info:
            line["traceback"] = redacted(self.formatException(record.exc_info))
        return json.dumps(line, ensure_ascii=False)


class LineHandler(logging.StreamHandler[Any]):
    """A handler whose lines appear above a progress bar, or a live table, on the terminal."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr  # a live table replaces it
        with tqdm.external_write_mode(self.stream):
            super().emit(record)


def configure_logging(run: str = "", rank: int | None = None) -> None:
    """Set the format of this process's log lines; they carry `run` and `rank` from now on.

    Secrets of the environment are hidden from now on.
    """
    remember_secrets(os.environ)
    wanted = os.environ.get(FORMAT_KEY, "text")
    if wanted not in ("text", "json"):
        raise InputError(f"{FORMAT_KEY} = {wanted}: unknown log format; set it to text or json")
    context = {
        key: value for key, value in (("run", run), ("rank", rank)) if value not in ("", None)
    }
    head = "%(asctime)s %(name)s" if rank is None else f"{run}, rank {rank}"
    formatter = TextLines(f"{head}: %(message)s") if wanted == "text" else JsonLines(context)
    logging.basicConfig(level=_level(), handlers=[LineHandler()])
    logging.getLogger("PIL").setLevel(logging.INFO)  # at DEBUG it logs every chunk of an image
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.StreamHandler):  # leaves Ray's log files as they are
            # In a worker, Ray's handler forwards lines to a plain one.
            getattr(handler, "plain_handler", handler).setFormatter(formatter)


def _level() -> str:
    """Return the lowest level of lines, in any spelling. InputError for an unknown one."""
    wanted = os.environ.get(LEVEL_KEY, "") or "INFO"
    if wanted.upper() not in LEVELS:
        raise InputError(f"{LEVEL_KEY} = {wanted}: unknown level; set it to one of {LEVELS}")
    return wanted.upper()
