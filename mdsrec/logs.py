"""A process's log on standard error: text for people, or JSON lines for machines.

`MDSREC_LOG_FORMAT` is text (default) or json, `MDSREC_LOG` the least level (INFO).
"""

import json
import logging
import os
from datetime import UTC, datetime
from typing import Any

from mdsrec.errors import InputError

FORMAT_KEY = "MDSREC_LOG_FORMAT"


class JsonLines(logging.Formatter):
    """A line an object: time (UTC), level, logger, whose it is, message, and the figures that
    `extra={"figures": {...}}` gives it.
    """

    def __init__(self, whose: dict[str, Any]) -> None:
        super().__init__()
        self._whose = whose

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            **self._whose,
            "message": record.getMessage(),
            **getattr(record, "figures", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def log_lines(run: str = "", rank: int | None = None) -> None:
    """Write this process's log lines as they are asked for, from now on with the run and the rank
    whose they are.
    """
    wanted = os.environ.get(FORMAT_KEY, "text")
    if wanted not in ("text", "json"):
        raise InputError(f"{FORMAT_KEY} = {wanted}: set it to text or json")
    whose = {key: value for key, value in (("run", run), ("rank", rank)) if value not in ("", None)}
    head = "%(asctime)s %(name)s" if rank is None else f"{run}, rank {rank}"
    formatter = logging.Formatter(f"{head}: %(message)s") if wanted == "text" else JsonLines(whose)
    logging.basicConfig(level=os.environ.get("MDSREC_LOG", "INFO"))
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.StreamHandler):  # Ray's log files have a form of their own
            # In a worker, Ray's handler passes lines on to a plain one.
            getattr(handler, "plain_handler", handler).setFormatter(formatter)
