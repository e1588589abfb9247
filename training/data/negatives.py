"""Negatives of the sampled softmax, the same for every prefix of a global step on every rank.

X items, n negatives, R items that are scored, P prefixes.

Every scheme knows how often it expects to draw an item, so that sum exp(score) * times / expected
over its negatives has the sum over all items for its mean.
"""

from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mdsrec.config import TrainConfig
from training.data.item_tables import ItemTables
from training.data.sparse import Ints

Floats = NDArray[np.float64]


class Scored(NamedTuple):
    """The items that stand in the softmax of a rank's prefixes: negatives and targets, distinct."""

    items: Tensor  # int64 [R], in the host's memory
    log_weights: Tensor  # [R], of the negatives; -inf for an item that is a target alone
    targets: Tensor  # int64 [P], places in `items`


class Negatives(NamedTuple):
    items: Ints  # [n], distinct
    log_weights: Floats  # [n], log(times / expected)

    def beside(self, targets: Ints, device: torch.device) -> Scored:
        """What is scored for prefixes of these targets."""
        together = np.concatenate([self.items, targets])
        items, place = np.unique(together, return_inverse=True)
        log_weights = np.full(len(items), -np.inf, dtype=np.float32)
        log_weights[place[: len(self.items)]] = self.log_weights
        moved = (log_weights, place[len(self.items) :])
        return Scored(torch.from_numpy(items), *(torch.from_numpy(a).to(device) for a in moved))


class Sampler(Protocol):
    def draw(self, targets: Ints, seed: int) -> Negatives:
        """Negatives of a global step with these targets, from `seed` alone."""


def sampler_of(config: TrainConfig, tables: ItemTables) -> Sampler | None:
    """How `config` draws negatives; None where every item is scored."""
    if config.loss == "full":
        return None
    if config.negatives == "uniform":
        return Stratified(np.ones(tables.num_items), config.num_negatives)
    assert tables.num_train is not None
    if config.negatives == "in_batch":
        return InBatch(tables.num_train)
    # An item without an event stands in the full softmax too, so it is drawn as if it had one.
    return Stratified(np.maximum(tables.num_train, 1.0), config.num_negatives)


class Stratified:
    """n draws in proportion to `weights`, each from a stratum of its own; O(n log X) a step.

    The items lie end to end on [0, n), each as wide as it is expected, at most 1; every unit of it
    gives one uniform draw. So nothing is spent on repeats, as draws with replacement would: an item
    of width 1 is drawn once and for certain, one that lies across two units twice at most. With
    n = X every item is drawn once.
    """

    def __init__(self, weights: Floats, num_negatives: int) -> None:
        self.order = np.argsort(-weights, kind="stable")  # widths of 1 first: each fills a unit
        widths = expected_times(weights[self.order], num_negatives)
        self.ends = np.cumsum(widths)
        self.log_widths, self.num_negatives = np.log(widths), num_negatives

    def draw(self, targets: Ints, seed: int) -> Negatives:
        n = self.num_negatives
        at = np.arange(n) + np.random.default_rng(seed).random(n)
        found = np.searchsorted(self.ends, at, side="right")
        # The last end may be rounded below n.
        rank, times = np.unique(found.clip(max=len(self.ends) - 1), return_counts=True)
        return Negatives(self.order[rank], np.log(times) - self.log_widths[rank])


def expected_times(weights: Floats, num_negatives: int) -> Floats:
    """Shares of n draws in proportion to descending `weights`, none above 1, as their sum is n."""
    rest = np.cumsum(weights[::-1])[::-1]
    left = num_negatives - np.arange(len(weights))
    sure = int(np.argmax(weights * left <= rest))  # so many would have more than 1
    widths = np.ones(len(weights))
    widths[sure:] = weights[sure:] * left[sure] / rest[sure]
    return widths


class InBatch:
    """The targets of the step: an epoch holds each training event as a target once, so another
    prefix of a step has item i for its target as often as i is among the training events.

    Approximate: an item's first places in histories, which are no targets, count with the rest, and
    an item without a training event is never a negative.
    """

    def __init__(self, num_train: Ints) -> None:
        self.num_train, self.total = num_train, num_train.sum()

    def draw(self, targets: Ints, seed: int) -> Negatives:
        items, times = np.unique(targets, return_counts=True)
        others = max(len(targets) - 1, 1)
        return Negatives(items, np.log(times * self.total / (others * self.num_train[items])))
