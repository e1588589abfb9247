"""Results of a measurement: a table on the terminal, numbers as JSON beside the data."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mdsrec.text import markdown_table

MIB = 1 << 20


def write_results(
    folder: Path, name: str, header: Sequence[str], rows: Sequence[Sequence[str]], numbers: Any
) -> None:
    """Print the table, and write the numbers to FOLDER/NAME.json."""
    path = folder / f"{name}.json"
    path.write_text(json.dumps(numbers, indent=2) + "\n")
    print(markdown_table(header, rows))
    print(f"numbers: {path}")


def mib(num_bytes: float) -> str:
    return f"{num_bytes / MIB:,.0f} MiB"


def exponent(sizes: Sequence[int], seconds: Sequence[float]) -> float:
    """Return g of seconds ~ size^g between the smallest and the largest size; NaN for one size."""
    if len(sizes) < 2 or not seconds[0] or not seconds[-1]:
        return math.nan
    return math.log(seconds[-1] / seconds[0]) / math.log(sizes[-1] / sizes[0])


def growth(values: Mapping[int, float]) -> str:
    """Return the exponent of values by size as text; - for one size."""
    found = exponent(list(values), list(values.values()))
    return "-" if math.isnan(found) else f"{found:.2f}"
