"""Measure the CPU time of the checks by digests: `python -m benchmarks.faults checks FOLDER`.

Tables of a made catalogue are written, then loaded and read as a training does. Each row tells the
CPU seconds of a step, and the share of them that the digests took.
"""

import argparse
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from unittest.mock import patch

from benchmarks.scale import settings
from mdsrec import parquet_groups, tables
from mdsrec.config import Experiment
from mdsrec.text import markdown_table

ITEMS, DIM = 1_000_000, 16
HEADER = ["step", "CPU s", "of that digests, s", "share"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    settings.add_arguments(parser, [ITEMS], DIM)


def run(arguments: argparse.Namespace) -> None:
    rows = []
    for items in arguments.items:
        experiment = settings.subject_of(arguments, items).load()
        with _timed_digests() as seconds:
            for step, action in (("load", _load), ("plan of an epoch", _plan)):
                rows.append(_row(f"{step}, {items:,} items", partial(action, experiment), seconds))
            rows.append(_row("process until the first step", lambda: None, seconds, 0.0))
            rows.append(_row("whole files, as before Spark", partial(_check, experiment), seconds))
    print(markdown_table(HEADER, rows))


def _row(
    step: str, action: Callable[[], None], seconds: list[float], since: float | None = None
) -> list[str]:
    """Run a step -> its row; `since` is the CPU time from which it counts, with all digests."""
    started, before = time.process_time(), sum(seconds)
    action()
    used = time.process_time() - (started if since is None else since)
    digests = sum(seconds) - (before if since is None else 0)
    return [step, f"{used:.2f}", f"{digests:.2f}", f"{digests / used:.1%}"]


@contextmanager
def _timed_digests() -> Iterator[list[float]]:
    """Time the checksums of all threads."""
    seconds: list[float] = []

    class Timed:
        @staticmethod
        def crc32(data: bytes, start: int = 0) -> int:
            before = time.thread_time()
            found = zlib.crc32(data, start)
            seconds.append(time.thread_time() - before)
            return found

    with patch("mdsrec.digests.blocks.zlib", Timed):
        yield seconds


def _load(experiment: Experiment) -> None:
    """Load the item tables, as every training and evaluation does at its start."""
    from training.data.item_tables import load_item_tables

    load_item_tables(experiment)


def _plan(experiment: Experiment) -> None:
    """Read all users and plan the steps of an epoch."""
    from training.data.sequences import SequenceReader

    for _ in SequenceReader(experiment).steps(0):
        pass


def _check(experiment: Experiment) -> None:
    """Read the files and nothing else."""
    for path in Path(experiment.root, "dataset").rglob(tables.MANIFEST):
        uri = str(path.parent)
        manifest = tables.open_table(uri)
        digests = [file.digests or "" for file in manifest.files]
        parquet_groups.check_files(uri, tables.data_files(uri, manifest), digests)
