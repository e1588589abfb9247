"""What a sweep knows of its trials: a file a trial, from which it goes on after any end.

The files are written as things happen and each is whole, so they are the sweep's state; Ray Tune's
own snapshots are not read.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from pyarrow import fs

from mdsrec import files
from mdsrec.config import Experiment
from mdsrec.errors import InputError

METRIC = "ndcg@10"  # of validation
SHOWN = (METRIC, "recall@10")

State = Literal["running", "finished", "stopped", "failed"]


@dataclass
class Trial:
    number: int
    params: dict[str, Any]
    values: dict[str, Any]
    state: State = "running"
    reports: list[dict[str, Any]] = field(default_factory=list)
    """Of the first seed's epochs: order among all of the sweep, epoch, metrics, seconds"""
    outcomes: list[dict[str, Any]] = field(default_factory=list)
    """Of each seed, once it is trained to its end: run, metrics of its best epoch, ..."""
    built: list[str] = field(default_factory=list)
    """Tables that were made for it"""
    cause: str = ""
    """Why it failed"""

    @property
    def best(self) -> float:
        """The best epoch's metric, the mean over the seeds; so far, where it did not finish."""
        if self.outcomes:
            return math.fsum(outcome[METRIC] for outcome in self.outcomes) / len(self.outcomes)
        return max((report[METRIC] for report in self.reports), default=math.nan)

    @property
    def spread(self) -> float:
        """Standard deviation over the seeds; nan of one."""
        if len(self.outcomes) < 2:
            return math.nan
        squares = [(outcome[METRIC] - self.best) ** 2 for outcome in self.outcomes]
        return math.sqrt(math.fsum(squares) / (len(squares) - 1))

    @property
    def epochs(self) -> int:
        """Trained, over all seeds."""
        if self.outcomes:
            return sum(int(outcome["epochs"]) for outcome in self.outcomes)
        return len(self.reports)

    @property
    def seconds(self) -> float:
        of = self.outcomes or self.reports
        return math.fsum(each["seconds"] for each in of)


class Records:
    """The trials of the sweep at `uri`, by number."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.trials = {trial.number: trial for trial in _read_all(f"{uri}/trials")}
        self._order = 1 + max(
            (report["order"] for t in self.trials.values() for report in t.reports), default=-1
        )

    def save(self, trial: Trial) -> None:
        self.trials[trial.number] = trial
        files.write_json(f"{self.uri}/trials/{trial.number:05d}.json", asdict(trial))

    def report(self, number: int, metrics: dict[str, Any]) -> None:
        """Keep an epoch of a trial's first seed, if it was not told before."""
        trial = self.trials[number]
        if metrics["epoch"] < len(trial.reports):
            return
        kept = {name: metrics[name] for name in ("epoch", *SHOWN, "loss", "seconds")}
        trial.reports.append({"order": self._order, **kept})
        self._order += 1
        self.save(trial)

    def reports(self) -> list[tuple[int, int, float]]:
        """Number, epoch and the best metric so far of every report, in the order of arrival."""
        told = []
        for trial in self.trials.values():
            best = -math.inf
            for report in trial.reports:
                best = max(best, report[METRIC])
                told.append((report["order"], trial.number, report["epoch"], best))
        return [(number, epoch, best) for _, number, epoch, best in sorted(told)]

    def ended(self) -> list[Trial]:
        return [trial for trial in self.trials.values() if trial.state != "running"]

    def winner(self) -> Trial | None:
        """The best of those that finished; None where none did."""
        finished = [trial for trial in self.trials.values() if trial.state == "finished"]
        return max(finished, key=lambda t: (t.best, -t.number), default=None)


def sweep_uri(experiment: Experiment) -> str:
    return f"{experiment.root}/sweeps/{experiment.name}"


def _read_all(uri: str) -> Iterator[Trial]:
    filesystem, path = files.file_system(uri)
    found = filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True))
    for info in sorted(found, key=lambda info: str(info.base_name)):
        if info.extension == "json":
            content = files.read_bytes(f"{uri}/{info.base_name}") or b""
            try:
                yield Trial(**json.loads(content))
            except (ValueError, TypeError) as error:
                raise InputError(
                    f"{uri}/{info.base_name}: damaged ({files.first_line(error)}): delete it, and "
                    "the sweep makes that trial anew"
                ) from None
