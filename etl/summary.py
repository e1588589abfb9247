"""What a run of the stage says at its end: tables and counters."""

from collections.abc import Mapping

from mdsrec.config import Experiment
from mdsrec.tables import Manifest

WIDTH = 100
MAX_COUNTERS = 12


def screen(experiment: Experiment, manifests: Mapping[str, Manifest]) -> str:
    """One screen: a line for each table with its rows and counters."""
    pad = max(map(len, manifests))
    lines = [f"Tables under {experiment.root}/dataset"]
    for name, manifest in manifests.items():
        lines.append(f"  {name:{pad}} {manifest.rows:>12,}  {_counters(manifest)}".rstrip())
    return "\n".join(lines)


def _counters(manifest: Manifest) -> str:
    """`users 10, items 5`; zeros are left out."""
    shown = [
        f"{key.replace('_', ' ')} {_number(value)}"
        for key, value in manifest.counters.items()
        if value
    ]
    more = len(shown) - MAX_COUNTERS
    return ", ".join(shown[:MAX_COUNTERS]) + (f", and {more} more" if more > 0 else "")


def _number(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)
