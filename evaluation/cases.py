"""cases.json: test users in detail, each with history, target and the top items of each channel.

Every run on the same data holds the same users. A page shows only the users that best show the
difference between runs or between channels.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Self, TypeVar

from mdsrec import files

TOP = 5  # top items per channel
REMEDY = "evaluate the run again"
SHOWN_RUNS = 3  # a comparison shows one user for each of the first runs

K = TypeVar("K")
Pair = tuple[float, float]  # rank, rank to compare with


@dataclass(frozen=True)
class Item:
    """An item as a page shows it."""

    item_id: str
    title: str | None  # at most TITLE characters


@dataclass(frozen=True)
class Case:
    """The first test event of a user. Items are ids of the items table."""

    user: int
    num_events: int  # before the target
    history: list[int]  # the last of these events, oldest first
    target: int
    neighbors: dict[str, list[int]]  # of the target by modality, most similar first
    rank: dict[str, float]  # of the target by channel, from the ranks table
    top: dict[str, list[int]]  # top items by channel, highest score first

    def items(self) -> set[int]:
        lists = (self.history, *self.neighbors.values(), *self.top.values())
        return {self.target}.union(*lists)


@dataclass(frozen=True)
class Cases:
    """All of cases.json."""

    ranks: str  # fingerprint of the ranks table
    pictures: str | None  # folder of files ITEM_ID.jpg
    cases: list[Case]  # by user
    items: dict[int, Item]

    def write(self, uri: str) -> None:
        files.write_json(uri, asdict(self))

    @classmethod
    def read(cls, uri: str) -> Self | None:
        """Read cases.json, or return None if there is no such file."""
        if not files.exists(uri):
            return None
        values = files.read_json(uri, REMEDY)
        cases = files.checked_fields(cls, values, uri, REMEDY)
        if missing := {item for case in cases.cases for item in case.items()} - cases.items.keys():
            raise files.damaged_json(uri, f"no item {min(missing)}", REMEDY)
        return cases

    def by_channel(self) -> list[tuple[str, Case]]:
        """Return, per single channel, the user for whom it is furthest behind the whole score."""
        channels = list(self.cases[0].top)[1:] if self.cases else []
        pairs = {c: [(case.rank["all"], case.rank[c]) for case in self.cases] for c in channels}
        return [(channel, self.cases[index]) for channel, index in most_distinctive(pairs).items()]

    def item_ids(self, cases: Iterable[Case]) -> set[str]:
        """Return the ids of all items in the given cases."""
        return {self.items[item].item_id for case in cases for item in case.items()}


@dataclass(frozen=True)
class DistinctiveCase:
    """A user whose target one run ranks higher than the other runs do."""

    run: int  # index of that run
    cases: list[Case]  # of the user, by run
    items: dict[int, Item]

    def item_ids(self) -> set[str]:
        shown = set().union(*(case.items() for case in self.cases))
        return {self.items[item].item_id for item in shown}


def distinctive_cases(runs: Sequence[Cases | None]) -> list[DistinctiveCase]:
    """Choose, for each of the first runs, the user with its largest lead over the other runs.

    Returns [] unless all runs have cases of the same users.
    """
    present = [cases for cases in runs if cases]
    users = [[case.user for case in cases.cases] for cases in present]
    if len(present) < len(runs) or any(other != users[0] for other in users):
        return []
    ranks = [[case.rank["all"] for case in cases.cases] for cases in present]
    pairs = {}
    for run, own in enumerate(ranks[:SHOWN_RUNS]):
        others = ranks[:run] + ranks[run + 1 :] or ranks
        pairs[run] = list(zip(own, map(min, zip(*others, strict=True)), strict=True))
    items = {item: it for cases in present for item, it in cases.items.items()}
    return [
        DistinctiveCase(run, [cases.cases[index] for cases in present], items)
        for run, index in most_distinctive(pairs).items()
    ]


def most_distinctive(ranks: Mapping[K, Sequence[Pair]]) -> dict[K, int]:
    """Return, per key, the index of the pair (rank, other rank) with the largest other - rank.

    Pairs with rank <= TOP are preferred to all others. Of equal pairs the first is chosen, and no
    index is chosen twice.
    """
    chosen: dict[K, int] = {}
    for key, pairs in ranks.items():
        free = [index for index in range(len(pairs)) if index not in chosen.values()]
        if free:
            chosen[key] = min(free, key=lambda i: (pairs[i][0] > TOP, pairs[i][0] - pairs[i][1]))
    return chosen
