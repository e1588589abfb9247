"""A try: one fault, and how a command answered it."""

import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

from mdsrec.text import markdown_table

TRACEBACKS = "Traceback (most recent call last)", "\tat org.apache.spark", "Py4JJavaError"


class Answer(StrEnum):
    """How a command ended; the last three are faults of ours."""

    SAME = "undisturbed result"
    LINE = "one clear line"
    SILENT = "wrong in silence"
    TRACEBACK = "traceback"
    SECRET = "secret repeated"


FAILURES = (Answer.SILENT, Answer.TRACEBACK, Answer.SECRET)


@dataclass(frozen=True)
class Try:
    """A fault and its answer."""

    kind: str
    fault: str  # what was done, as "bit 3 of byte 917 of part-00000.parquet"
    answer: Answer
    said: str = ""  # the last line of the error


def answered(kind: str, fault: str, code: int, output: str, right: bool) -> Try:
    """Return the try of a command that ended with `code` and printed `output`.

    `right`: its result is that of an undisturbed command. Only a failing command may differ.
    """
    lines = output.strip().splitlines()
    said = lines[-1] if lines else ""
    if any(sign in output for sign in TRACEBACKS):
        return Try(kind, fault, Answer.TRACEBACK, said)
    if code:
        return Try(kind, fault, Answer.LINE, said)
    return Try(kind, fault, Answer.SAME if right else Answer.SILENT, said)


def report(folder: Path, name: str, tries: Sequence[Try]) -> None:
    """Print a row for each kind and write FOLDER/NAME.json; exit with 1 if a try failed."""
    path = folder / f"{name}.json"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([asdict(one) for one in tries], indent=2) + "\n")
    header = ["kind", "tries", *(str(answer) for answer in Answer)]
    rows = []
    for kind in dict.fromkeys(one.kind for one in tries):
        counts = Counter(one.answer for one in tries if one.kind == kind)
        rows.append([kind, str(counts.total()), *(str(counts[answer]) for answer in Answer)])
    print(markdown_table(header, rows))
    print(f"tries: {path}")
    failed = [one for one in tries if one.answer in FAILURES]
    for one in failed[:10]:
        print(f"{one.kind}: {one.fault}: {one.answer}: {one.said}", file=sys.stderr)
    if failed:
        raise SystemExit(1)
