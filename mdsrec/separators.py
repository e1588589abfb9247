"""The separator of a CSV file, recognized by its header."""

import csv
import io

SEPARATORS = (",", ";", "\t", "|")


def likely_separators(text: str) -> list[str]:
    """Return the separators that cut the first row into the most columns: one, if it is clear.

    A row that no separator cuts has a single column, and any will do: the first is returned.
    """
    widths = {
        separator: len(next(csv.reader(io.StringIO(text, newline=""), delimiter=separator), ()))
        for separator in SEPARATORS
    }
    best = max(widths.values())
    found = [separator for separator, width in widths.items() if width == best]
    return found if best > 1 else found[:1]
