"""The head of a page: which model was trained, with which seed, when, by what and where."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from mdsrec.run_paths import STARTED_FROM

FACTS = ("model", "seed", "trained", "version", "machine")
UNKNOWN = "not recorded"  # by the version that made the run


def run_facts(config: Mapping[str, Any], history: Mapping[str, Any]) -> dict[str, str]:
    """Return the FACTS of a run from its config.json and history.json."""
    version = history.get("version")
    return {
        "model": str(config.get("model", {}).get("name", UNKNOWN)),
        "seed": str(config.get("seed", UNKNOWN)),
        "trained": date_text(history["date"]) if "date" in history else UNKNOWN,
        "version": f"mdsrec {version}" if version else UNKNOWN,
        "machine": _machine(history),
    }


def start_facts(history: Mapping[str, Any], appended: str | None) -> dict[str, str]:
    """Return what the weights started from, and what was appended to them, where they were."""
    facts, start = {}, history.get(STARTED_FROM)
    if start:
        facts["started from"] = (
            f"{start['source']}, weights {start['source_weights']}: {start['items_carried']:,} "
            f"items carried, {start['items_from_neighbors']:,} from neighbors, "
            f"{start['items_initial']:,} initial"
        )
    return facts | ({"appended": appended} if appended else {})


def date_text(date: str) -> str:
    """Return `29 November 2026, 10:58 UTC` for an ISO 8601 time."""
    time = datetime.fromisoformat(date)
    return f"{time.day} {time:%B %Y, %H:%M} UTC"


def _machine(history: Mapping[str, Any]) -> str:
    workers = history.get("num_workers", 1)
    machine = history.get("machine", UNKNOWN)
    return machine if workers == 1 else f"{workers} workers, the first on {machine}"
