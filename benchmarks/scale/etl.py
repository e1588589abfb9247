"""The ETL end to end at several sizes: seconds, CPU time and the peak of every process, by stage.

A catalogue of raw files (`benchmarks.catalogue raw`) is written for each size, and `mdsrec etl`
runs on it. A stage is a table of its log. Its growth exponent g is that of CPU seconds ~ items^g,
which other jobs on the machine change less than the seconds.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.catalogue.events import LONGEST, Catalogue
from benchmarks.catalogue.raw import EVENTS, WIDTH, write_raw
from benchmarks.catalogue.raw_lines import RawLines
from benchmarks.scale.processes import DRIVER, JVM, PYTHON_WORKER, Sampler
from benchmarks.scale.results import growth, mib, write_results
from mdsrec.command import positive_int
from mdsrec.command.logs import FORMAT_KEY
from mdsrec.errors import InputError
from mdsrec.packages import child_environment

SIZES = [100_000, 1_000_000, 5_000_000]
KINDS = (DRIVER, JVM, PYTHON_WORKER)
BUILDING = ": building"
BETWEEN = "between stages"


@dataclass
class Stage:
    """A stage of one run."""

    seconds: float
    cpu_seconds: float  # of all processes
    rows: int
    peaks: dict[str, int]  # bytes, of the largest process of each kind
    figures: dict[str, Any] = field(default_factory=dict)  # others of the log, as vector_bytes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="for catalogues and results")
    parser.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help="of the experiment")
    parser.add_argument("--items", type=positive_int, nargs="+", default=SIZES)
    parser.add_argument("--events", type=positive_int, default=EVENTS, help="an item (default: 10)")
    parser.add_argument("--longest", type=positive_int, default=LONGEST, help="most of a user")
    parser.add_argument("--text", type=int, default=0, help="bytes of text in a review")
    parser.add_argument("--keep", action="store_true", help="keep the catalogues and tables")


def run(arguments: argparse.Namespace) -> None:
    stages_of: dict[int, dict[str, Stage]] = {}
    for items in arguments.items:
        folder = arguments.folder.absolute() / f"items-{items}"
        events = arguments.events * items
        catalogue = Catalogue(items, interactions=events, longest=arguments.longest)
        write_raw(folder, catalogue, RawLines("2018", arguments.text), WIDTH)
        try:
            log = arguments.folder.absolute() / f"etl-{items}.log"
            stages_of[items] = run_etl(folder / "catalogue.toml", arguments.overrides, log)
        finally:
            if not arguments.keep:
                shutil.rmtree(folder)
        slowest = max(stages_of[items].items(), key=lambda pair: pair[1].seconds)
        print(f"{items:,} items: slowest is {slowest[0]}", file=sys.stderr, flush=True)
    numbers = {items: _as_json(stages) for items, stages in stages_of.items()}
    write_results(arguments.folder, "etl", *table(stages_of), numbers)


def run_etl(config: Path, overrides: Sequence[str], log_path: Path) -> dict[str, Stage]:
    """Run `mdsrec etl` in a process of its own and return its stages by table.

    Beside them, BETWEEN has the peaks of the rest.
    """
    command = [sys.executable, "-m", "etl", str(config), *overrides]
    environment = {**os.environ, **child_environment(), FORMAT_KEY: "json"}
    stages: dict[str, Stage] = {}
    started = time.monotonic()
    with (
        log_path.open("w") as log,
        subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        ) as process,
        Sampler(process.pid) as sampler,
    ):
        sampler.begin(BETWEEN)
        assert process.stderr is not None
        for line in process.stderr:
            log.write(line)
            _follow(line, sampler, stages)
    if process.returncode:
        raise InputError(f"the ETL failed: see {log_path}")
    between = time.monotonic() - started - sum(stage.seconds for stage in stages.values())
    cpu = sampler.cpu_seconds[BETWEEN]
    stages[BETWEEN] = Stage(between, cpu, 0, sampler.highest(BETWEEN))
    return stages


def _follow(line: str, sampler: Sampler, stages: dict[str, Stage]) -> None:
    """Begin or end a stage where a line of the log says so."""
    try:
        entry = json.loads(line)
        message = entry["message"]
    except (ValueError, KeyError, TypeError):
        return  # a line of Java
    if message.endswith(BUILDING):
        name = message.removesuffix(BUILDING)
        sampler.begin(name)
        stages[name] = Stage(0.0, 0.0, 0, {})
    elif "table" in entry and "seconds" in entry:
        stage, name = stages[entry["table"]], entry["table"]
        stage.seconds, stage.rows = entry["seconds"], entry["rows"]
        sampler.begin(BETWEEN)
        stage.peaks, stage.cpu_seconds = sampler.highest(name), sampler.cpu_seconds[name]
    elif "table" in entry:
        known = ("time", "level", "logger", "run", "message", "table")
        stages[entry["table"]].figures |= {k: v for k, v in entry.items() if k not in known}


def table(stages_of: Mapping[int, Mapping[str, Stage]]) -> tuple[list[str], list[list[str]]]:
    """Return the header and a row for each stage and size."""
    names = list(dict.fromkeys(name for stages in stages_of.values() for name in stages))
    rows = []
    for name in names:
        by_size = {items: stages[name] for items, stages in stages_of.items() if name in stages}
        exponent = growth({items: stage.cpu_seconds for items, stage in by_size.items()})
        for items, stage in by_size.items():
            peaks = [mib(stage.peaks[kind]) if kind in stage.peaks else "-" for kind in KINDS]
            read = stage.figures.get("vector_bytes")
            cells = [f"{stage.rows:,}", f"{stage.seconds:.1f}", f"{stage.cpu_seconds:.1f}"]
            cells += [exponent, *peaks]
            rows.append([name, f"{items:,}", *cells, "-" if read is None else mib(read)])
    header = ["stage", "items", "rows", "seconds", "CPU s", "growth", *KINDS, "vectors read"]
    return header, rows


def _as_json(stages: Mapping[str, Stage]) -> dict[str, Any]:
    return {name: asdict(stage) for name, stage in stages.items()}
