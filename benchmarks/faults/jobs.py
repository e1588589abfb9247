"""Two ETLs with other settings on one root, one of them paused at the start or commit of a table.

A paused job keeps its leases, so the other one waits for it. A suspended one (SIGSTOP, as when a
laptop sleeps or a node hangs) loses them: the other one takes over and finishes, and the first must
end without a write when it goes on. Afterwards the tables must be those of one of the two, as
it builds them undisturbed.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from itertools import product
from pathlib import Path
from typing import Any, Self

from benchmarks.faults.experiment import write_experiment
from benchmarks.faults.results import Results, table_results
from benchmarks.faults.tries import Answer, Try, answered, report
from etl.synthetic.catalogue import write_catalogue
from mdsrec.command import positive_int

SECTIONS = {
    "graph": {"max_neighbors": 12},
    "model": {"memory": False, "num_centers": 4, "num_neighbors": 10},
}
K_CORES = (3, 4)  # the settings of the first job and of the second
POINTS = ("start", "commit")
WAITING_SECONDS = 1.0  # that the second job has to come to a paused one


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="folder for data and answers")
    parser.add_argument("--tries", type=positive_int, default=48, help="interleavings (48)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--plain",
        action="store_true",
        help="tables of a row, without Spark (benchmarks.faults.plain_tables)",
    )


def run(arguments: argparse.Namespace) -> None:
    """Try interleavings in a random order, and report."""
    folder = arguments.folder.resolve()
    raw, root = folder / "raw", folder / "root"
    write_catalogue(raw, num_users=80, num_items=50, seed=1)
    words = ["plain"] if arguments.plain else []
    with EtlJob(folder, *words) as first, EtlJob(folder, *words) as second:
        undisturbed = []
        for job, k_core in zip((first, second), K_CORES, strict=True):
            shutil.rmtree(root, ignore_errors=True)
            job.start(config(folder, k_core))
            code, said = job.wait()
            assert code == 0, said
            undisturbed.append(table_results(root))
        places = list(product(("paused", "suspended"), undisturbed[0], POINTS))
        random.Random(arguments.seed).shuffle(places)
        tries = []
        for number in range(arguments.tries):
            kind, table, point = places[number % len(places)]
            shutil.rmtree(root, ignore_errors=True)
            tries.append(interleave(first, second, folder, kind, (table, point), undisturbed))
            print(f"{number + 1}/{arguments.tries} {tries[-1]}", file=sys.stderr)
    report(folder, "jobs", tries)


def interleave(
    first: "EtlJob",
    second: "EtlJob",
    folder: Path,
    kind: str,
    place: tuple[str, str],
    undisturbed: list[Results],
) -> Try:
    """Pause or suspend the first job at a place while the second one starts."""
    first.start(config(folder, K_CORES[0]), *place)
    first.wait_for("paused")
    if kind == "suspended":
        first.signal(signal.SIGSTOP)
    second.start(config(folder, K_CORES[1]))
    if kind == "suspended":
        others = second.wait()
        first.signal(signal.SIGCONT)
        first.go_on()
        own = first.wait()
    else:
        time.sleep(WAITING_SECONDS)
        first.go_on()
        own = first.wait()
        others = second.wait()
    right = table_results(folder / "root") in undisturbed
    found = [
        answered(f"{kind} job", f"{place[1]} of {place[0]}", *end, right) for end in (own, others)
    ]
    worse = next((one for one in found if one.answer not in (Answer.SAME, Answer.LINE)), None)
    if worse is None and not right:
        return Try(f"{kind} job", found[0].fault, Answer.SILENT, "tables of both")
    ended = [one for one in found if one.answer == Answer.LINE]
    return worse or (ended[0] if ended else found[0])


def config(folder: Path, k_core: int) -> str:
    """Write the configuration of a job -> its path."""
    sections = {**SECTIONS, "sequences": {"k_core": k_core}}
    path = folder / f"k_core-{k_core}.toml"
    return write_experiment(path, folder / "root", folder / "raw", sections)


class EtlJob:
    """A process of `benchmarks.faults.etl_job`, with the JVM that it starts."""

    def __init__(self, folder: Path, *words: str) -> None:
        self._log = (folder / f"etl-job-{id(self):x}.log").open("w")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.faults.etl_job", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            start_new_session=True,
        )

    def __enter__(self) -> Self:
        self.wait_for("ready")
        return self

    def __exit__(self, *_: object) -> None:
        self.signal(signal.SIGKILL)
        with self._process, self._log:  # closes the pipes too
            self._process.wait()

    def start(self, path: str, table: str | None = None, point: str | None = None) -> None:
        """Start a build, which pauses at a point of a table."""
        place = {} if table is None else {"table": table, "point": point}
        self._write(json.dumps({"config": path, **place}))

    def go_on(self) -> None:
        """End the pause."""
        self._write("go on")

    def wait(self) -> tuple[int, str]:
        """Wait for the end of a build -> exit code and last words."""
        while True:
            line = self._read()
            if line.startswith("{"):
                ended: dict[str, Any] = json.loads(line)
                return ended["code"], ended["said"]

    def wait_for(self, word: str) -> None:
        while (line := self._read()) != word:
            assert not line.startswith("{"), line

    def signal(self, signum: int) -> None:
        """Send a signal to the process and its JVM."""
        os.killpg(self._process.pid, signum)

    def _write(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the job ended: {self._log.name}"
        return line.strip()
