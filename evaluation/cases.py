"""cases.json: a few test users told in full, what they had, what came next, what was offered.

Every run on the same data tells of the same users; a page shows those that tell runs or channels
apart.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Self, TypeVar

from mdsrec import files
from mdsrec.errors import InputError

TOP = 5  # items that a channel offers
SHOWN_RUNS = 3  # that a comparison tells apart

K = TypeVar("K")
Pair = tuple[float, float]


@dataclass(frozen=True)
class Item:
    asin: str
    title: str | None  # cut after TITLE characters


@dataclass(frozen=True)
class Case:
    """The first test event of a user. Items are ids of the items table."""

    user: int
    num_events: int  # before the target
    history: list[int]  # the last of them, oldest first
    target: int
    neighbors: dict[str, list[int]]  # the target's nearest by modality, most similar first
    rank: dict[str, float]  # of the target, by channel, as the ranks table has it
    top: dict[str, list[int]]  # by channel, highest score first

    def items(self) -> set[int]:
        lists = (self.history, *self.neighbors.values(), *self.top.values())
        return {self.target}.union(*lists)


@dataclass(frozen=True)
class Cases:
    ranks: str  # fingerprint of the ranks table
    pictures: str | None  # folder of files ASIN.jpg
    cases: list[Case]  # by user
    items: dict[int, Item]

    def write(self, uri: str) -> None:
        files.write_json(uri, asdict(self))

    @classmethod
    def read(cls, uri: str) -> Self | None:
        """None where there is no such file."""
        content = files.read_bytes(uri)
        if content is None:
            return None
        try:
            found = json.loads(content)
            found["cases"] = [Case(**case) for case in found["cases"]]
            found["items"] = {int(item): Item(**it) for item, it in found["items"].items()}
            return cls(**{field.name: found[field.name] for field in fields(cls)})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{uri}: damaged ({error}): evaluate the run again") from None

    def by_channel(self) -> list[tuple[str, Case]]:
        """For each channel alone, the user that sets the whole score most apart from it."""
        channels = list(self.cases[0].top)[1:] if self.cases else []
        pairs = {c: [(case.rank["all"], case.rank[c]) for case in self.cases] for c in channels}
        return [(channel, self.cases[place]) for channel, place in telling(pairs).items()]

    def asins(self, cases: Iterable[Case]) -> set[str]:
        """Of all items in some of the cases."""
        return {self.items[item].asin for case in cases for item in case.items()}


@dataclass(frozen=True)
class Told:
    """A user whose target one run ranks further up than the others do."""

    run: int  # place of that run among all
    cases: list[Case]  # of the user, by run
    items: dict[int, Item]

    def asins(self) -> set[str]:
        shown = set().union(*(case.items() for case in self.cases))
        return {self.items[item].asin for item in shown}


def told_apart(runs: Sequence[Cases | None]) -> list[Told]:
    """For each of the first runs, the user that sets it most apart from the best of the others;
    nothing where a run tells of other users, or of none.
    """
    found = [cases for cases in runs if cases]
    users = [[case.user for case in cases.cases] for cases in found]
    if len(found) < len(runs) or any(other != users[0] for other in users):
        return []
    ranks = [[case.rank["all"] for case in cases.cases] for cases in found]
    pairs = {}
    for run, own in enumerate(ranks[:SHOWN_RUNS]):
        others = ranks[:run] + ranks[run + 1 :] or ranks
        pairs[run] = list(zip(own, map(min, zip(*others, strict=True)), strict=True))
    items = {item: it for cases in found for item, it in cases.items.items()}
    return [
        Told(run, [cases.cases[place] for cases in found], items)
        for run, place in telling(pairs).items()
    ]


def telling(ranks: Mapping[K, Sequence[Pair]]) -> dict[K, int]:
    """By key, the place of the pair (rank, other rank) that is furthest apart, among those whose
    first is within TOP if there are any; the first of equal ones, and no place twice.
    """
    chosen: dict[K, int] = {}
    for key, pairs in ranks.items():
        left = [place for place in range(len(pairs)) if place not in chosen.values()]
        if left:
            chosen[key] = min(left, key=lambda p: (pairs[p][0] > TOP, pairs[p][0] - pairs[p][1]))
    return chosen
