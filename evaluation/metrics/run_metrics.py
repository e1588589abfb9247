"""metrics.json of a run, typed.

Keys of the dictionaries: split (valid, test), channel (all, fused, each modality, the baselines),
metric (recall@10, ...). A split without targets has empty means and intervals.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from mdsrec import files
from mdsrec.errors import InputError

POPULARITY = "popularity"  # the channel that ranks items by their number of training events
ITEMKNN = "itemknn"  # the channel that ranks items by co-occurrence with the user's history
BASELINES = (POPULARITY, ITEMKNN)

REMEDY = "evaluate the run again"

Means = dict[str, float]  # by metric

KEYS = (  # in the order of the file
    *("name", "dataset", "tables", "weights", "ranks", "num_items", "cutoffs", "exclude_seen"),
    *("channel_weights", "items_with", "lists", "users", "targets", "split", "interval", "ties"),
    *("curve", "slices"),
)
OPTIONAL = ("tables", "channel_weights", "items_with", "lists", "users", "ties")


@dataclass(frozen=True)
class ListMetrics:
    """Metrics of the recommendation lists of all users together."""

    top: int  # length of a list
    exclude_seen: bool
    coverage: float  # share of the items that are in some list
    popularity_lift: float


@dataclass(frozen=True)
class Curve:
    """recall@N as a function of N."""

    n: list[int]
    recall: dict[str, dict[str, list[float]]]  # by split and channel, one value for each n


@dataclass(frozen=True)
class SliceMetrics:
    """Metrics of the targets in one slice."""

    targets: int
    channels: dict[str, Means]  # by channel


@dataclass(frozen=True, kw_only=True)
class RankMetrics:
    """Reductions of the ranks table."""

    users: int = 0
    targets: dict[str, int]  # number of held-out events, by split
    split: dict[str, dict[str, Means]]  # by split and channel
    interval: dict[str, dict[str, dict[str, list[float]]]]  # as `split`: [low, high] of each mean
    ties: dict[str, dict[str, int]] = field(default_factory=dict)  # targets tied with other items
    curve: Curve
    slices: dict[str, dict[str, dict[str, SliceMetrics]]]  # by split, slicing and slice


@dataclass(frozen=True, kw_only=True)
class RunMetrics(RankMetrics):
    """All of metrics.json."""

    name: str
    dataset: str  # runs with the same value rank the same targets among the same items
    tables: str = ""  # fingerprint of the tables that the model was trained on
    weights: str
    ranks: str  # fingerprint of the ranks table
    num_items: int
    cutoffs: list[int]
    exclude_seen: bool
    channel_weights: dict[str, float] = field(default_factory=dict)  # in the whole score
    items_with: dict[str, int] = field(default_factory=dict)  # number of items, by modality
    lists: ListMetrics | None = None  # None if there are no recommendations of these weights

    @classmethod
    def read(cls, uri: str) -> Self:
        """Read metrics.json. Raises InputError if it is missing or damaged."""
        content = files.read_json(uri, REMEDY)
        if not content:
            raise InputError(f"{uri}: no such file: run `mdsrec evaluate CONFIG`")
        try:
            fields = cls._fields(content)
        except KeyError as error:
            raise files.damaged_json(uri, f"no {error}", REMEDY) from None
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise files.damaged_json(uri, error, REMEDY) from None
        return files.checked_fields(cls, fields, uri, REMEDY)

    def write(self, uri: str) -> None:
        found = asdict(self)
        content = {key: found[key] for key in KEYS}
        content["lists"] = found["lists"] or {}
        content["curve"] = {"n": self.curve.n, **self.curve.recall}
        files.write_json(uri, content)

    @staticmethod
    def _fields(content: Mapping[str, Any]) -> dict[str, Any]:
        found = {key: content[key] for key in KEYS if key in content or key not in OPTIONAL}
        curves = dict(found["curve"])
        found["curve"] = {"n": curves.pop("n"), "recall": curves}
        found["lists"] = found.get("lists") or None
        return found


def baselines_of(runs: Iterable[RunMetrics]) -> dict[str, RunMetrics]:
    """Return, for each baseline, the first of the runs that ranked it.

    Baselines belong to the data: all runs that are compared have the same ones.
    """
    first: dict[str, RunMetrics] = {}
    for run in runs:
        for name in BASELINES:
            if name in run.split["test"]:
                first.setdefault(name, run)
    return first
