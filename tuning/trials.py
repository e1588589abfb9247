"""Trials of a sweep and the files that record them.

A trial is one JSON file, written again after every epoch. A sweep that was stopped or killed
continues from these files; Ray Tune's own snapshots are not read.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from pyarrow import fs

from mdsrec import files
from mdsrec.config import Experiment

METRIC = "ndcg@10"  # on the validation events; trials are compared by it
REPORTED = (METRIC, "recall@10")

State = Literal["running", "finished", "stopped", "failed"]


@dataclass
class Trial:
    """One point of the search space and its results so far. The fields are the keys of its file."""

    number: int
    params: dict[str, Any]
    values: dict[str, Any]
    state: State = "running"
    reports: list[dict[str, Any]] = field(default_factory=list)
    """Epochs of the first seed: order of arrival in the sweep, epoch, metrics, seconds."""
    outcomes: list[dict[str, Any]] = field(default_factory=list)
    """Seeds that were trained to the end: run, metrics of the best epoch, cost."""
    built: list[str] = field(default_factory=list)
    """Tables that were built for this trial."""
    cause: str = ""
    """Why it failed, the last time."""
    retries: int = 0
    """Number of retries after failures."""

    @property
    def score(self) -> float:
        """METRIC of the best epoch, as the mean over the seeds.

        Before the trial has finished it is the first seed's best so far, or NaN without epochs.
        """
        if self.outcomes:
            return math.fsum(outcome[METRIC] for outcome in self.outcomes) / len(self.outcomes)
        return max((report[METRIC] for report in self.reports), default=math.nan)

    @property
    def has_score(self) -> bool:
        return not math.isnan(self.score)

    @property
    def spread(self) -> float:
        """Standard deviation of METRIC over the seeds, NaN for fewer than two."""
        if len(self.outcomes) < 2:
            return math.nan
        squares = [(outcome[METRIC] - self.score) ** 2 for outcome in self.outcomes]
        return math.sqrt(math.fsum(squares) / (len(squares) - 1))

    @property
    def epochs(self) -> int:
        """Number of trained epochs, over all seeds."""
        if self.outcomes:
            return sum(int(outcome["epochs"]) for outcome in self.outcomes)
        return len(self.reports)

    @property
    def seconds(self) -> float:
        return math.fsum(each["seconds"] for each in self.outcomes or self.reports)


class TrialStore:
    """The trials of the sweep at `uri`, by number, in memory and as files."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.trials = {trial.number: trial for trial in _read_trials(f"{uri}/trials")}
        self._next_order = 1 + max(
            (report["order"] for t in self.trials.values() for report in t.reports), default=-1
        )

    def save(self, trial: Trial) -> None:
        self.trials[trial.number] = trial
        files.write_json(f"{self.uri}/trials/{trial.number:05d}.json", asdict(trial))

    def add_report(self, number: int, metrics: dict[str, Any]) -> None:
        """Record an epoch of a trial's first seed. An epoch that is already recorded is ignored."""
        trial = self.trials[number]
        if metrics["epoch"] < len(trial.reports):
            return
        names = [name for name in ("epoch", *REPORTED, "loss", "seconds") if name in metrics]
        recorded = {name: metrics[name] for name in names}  # without training there is no loss
        trial.reports.append({"order": self._next_order, **recorded})
        self._next_order += 1
        self.save(trial)

    def report_history(self) -> list[tuple[int, int, float]]:
        """Return (trial number, epoch, best METRIC so far) of every report, in order of arrival."""
        history = []
        for trial in self.trials.values():
            best = -math.inf
            for report in trial.reports:
                best = max(best, report[METRIC])
                history.append((report["order"], trial.number, report["epoch"], best))
        return [(number, epoch, best) for _, number, epoch, best in sorted(history)]

    def in_order(self) -> list[Trial]:
        return [self.trials[number] for number in sorted(self.trials)]

    def ended(self) -> list[Trial]:
        return [trial for trial in self.trials.values() if trial.state != "running"]

    def failed(self) -> list[Trial]:
        return [trial for trial in self.in_order() if trial.state == "failed"]

    def winner(self) -> Trial | None:
        """Return the finished trial with the highest score, or None if no trial has finished.

        Among equal scores the lowest number wins.
        """
        finished = [trial for trial in self.trials.values() if trial.state == "finished"]
        return max(finished, key=lambda t: (t.score, -t.number), default=None)


def best_first(trials: Iterable[Trial]) -> list[Trial]:
    """Sort by score, highest first. Trials without a score come last."""
    return sorted(trials, key=lambda t: (-t.score if t.has_score else math.inf, t.number))


def commonest_cause(causes: Sequence[str]) -> str:
    """Return the commonest cause of failures, and how many have it if others have another."""
    [(cause, count)] = Counter(causes).most_common(1)
    return cause if count == len(causes) else f"{cause} ({count} of them)"


def format_score(score: float) -> str:
    return "-" if math.isnan(score) else f"{score:.4f}"


def format_values(values: dict[str, Any]) -> str:
    """Return `num_neighbors 10, rho text 0.3 image 0.7`: keys without their section."""
    return ", ".join(f"{key.split('.', 1)[1]} {_format_value(v)}" for key, v in values.items())


def sweep_uri(experiment: Experiment) -> str:
    return f"{experiment.root}/sweeps/{experiment.name}"


def _format_value(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{name} {share:g}" for name, share in value.items())
    return f"{value:g}" if isinstance(value, float) else str(value)


def _read_trials(uri: str) -> Iterator[Trial]:
    filesystem, path = files.file_system(uri)
    found = filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True))
    for info in sorted(found, key=lambda info: str(info.base_name)):
        if info.extension == "json":
            yield _trial_of(files.join(uri, info.base_name))


def _trial_of(uri: str) -> Trial:
    remedy = "delete it, and the sweep runs that trial again"
    trial = files.checked_fields(Trial, files.read_json(uri, remedy), uri, remedy)
    wanted = {"order", "epoch", METRIC}
    if not all(wanted <= each.keys() for each in trial.reports):
        raise files.damaged_json(uri, f"a report without {', '.join(sorted(wanted))}", remedy)
    if not all({"run", METRIC, "epochs", "seconds"} <= each.keys() for each in trial.outcomes):
        raise files.damaged_json(uri, "an outcome without its metrics", remedy)
    return trial
