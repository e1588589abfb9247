"""The users' events as a peer's process reads them, and the metrics of its lists.

Needs only NumPy.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.request import CUTOFFS

Items = NDArray[np.int64]


class HeldOut(NamedTuple):
    """A user's event to predict, and all events before it."""

    user: int
    history: Items
    target: int


class Sequences:
    """The file of `split.py`: user u has the items from starts[u] on."""

    def __init__(self, path: str | Path) -> None:
        with np.load(path, allow_pickle=False) as arrays:
            self.num_items = int(arrays["num_items"])
            self._items, self._starts = arrays["items"], arrays["starts"]
            self._ends = {"valid": arrays["train_end"], "test": arrays["valid_end"]}

    def training(self) -> list[tuple[int, Items]]:
        """Return the users with at least one training prefix, each with the training events."""
        ends = self._ends["valid"]
        return [(user, self._of(user)[:end]) for user, end in enumerate(ends) if end > 1]

    def held_out(self, part: str) -> list[HeldOut]:
        """Return the event of each user that `part`, valid or test, holds out."""
        rows = ((user, end, self._of(user)) for user, end in enumerate(self._ends[part]))
        return [HeldOut(user, of[:end], int(of[end])) for user, end, of in rows if end < len(of)]

    def _of(self, user: int) -> Items:
        items: Items = self._items[self._starts[user] : self._starts[user + 1]]
        return items


def metrics_of(lists: Any, targets: Any) -> dict[str, float]:
    """Return recall and ndcg at the CUTOFFS of lists [users, TOP] with one target a user.

    A target that is not in its list has no rank. A place without an item is -1.
    """
    hits = np.asarray(lists) == np.asarray(targets)[:, None]
    found: dict[str, float] = {}
    for cutoff in CUTOFFS:
        of_rank = 1 / np.log2(np.arange(cutoff) + 2)
        found[f"recall@{cutoff}"] = float(hits[:, :cutoff].any(axis=1).mean())
        found[f"ndcg@{cutoff}"] = float((hits[:, :cutoff] * of_rank).sum(axis=1).mean())
    return found
