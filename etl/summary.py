"""What a run of the stage says at its end: tables and counters."""

from collections.abc import Mapping
from typing import Any

from mdsrec.config import Experiment
from mdsrec.tables import Manifest

MAX_COUNTERS = 16


def screen(experiment: Experiment, manifests: Mapping[str, Manifest]) -> str:
    """One screen: a line for each table with its rows and counters."""
    pad = max(map(len, manifests))
    lines = [f"Tables under {experiment.root}/dataset"]
    for name, manifest in manifests.items():
        lines.append(
            f"  {name:{pad}} {manifest.rows:>12,}  {counters_line(manifest.counters)}".rstrip()
        )
    return "\n".join(lines)


def counters_line(counters: Mapping[str, Any]) -> str:
    """`users 10, items 5`; zeros are left out."""
    shown = [
        f"{key.replace('_', ' ')} {_number(value)}" for key, value in counters.items() if value
    ]
    more = len(shown) - MAX_COUNTERS
    return ", ".join(shown[:MAX_COUNTERS]) + (f", and {more} more" if more > 0 else "")


def _number(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.4f}".rstrip("0").rstrip(".")
    return f"{value:,}" if isinstance(value, int) else str(value)
