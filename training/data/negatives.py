"""Negatives of the sampled softmax, shared by all prefixes of a global step on all ranks.

X items, n negatives, R scored items, P prefixes.

A sampler knows how often it expects to draw each item. Each exp(score) counts times / expected, so
the expectation of the sum over the negatives is the sum over all items.
"""

from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from mdsrec.arrays import Floats, Ints
from mdsrec.config import TrainConfig
from mdsrec.errors import InputError
from training.data.item_tables import ItemTables


class ScoredItems(NamedTuple):
    """The items in the softmax of a rank's prefixes: negatives and targets, distinct."""

    items: Tensor  # int64 [R], in host memory
    log_weights: Tensor  # [R], of the negatives; -inf for an item that is only a target
    targets: Tensor  # int64 [P], the target of each prefix as an index into `items`


class Negatives(NamedTuple):
    """The negatives of a global step."""

    items: Ints  # [n], distinct
    log_weights: Floats  # [n], log(times / expected)

    def with_targets(self, targets: Ints, device: torch.device) -> ScoredItems:
        """Return the items to score for prefixes with these targets."""
        together = np.concatenate([self.items, targets])
        items, index = np.unique(together, return_inverse=True)
        log_weights = np.full(len(items), -np.inf, dtype=np.float32)
        log_weights[index[: len(self.items)]] = self.log_weights
        on_device = (log_weights, index[len(self.items) :])
        return ScoredItems(
            torch.from_numpy(items), *(torch.from_numpy(a).to(device) for a in on_device)
        )


class Sampler(Protocol):
    """A scheme that draws negatives."""

    def draw(self, targets: Ints, seed: int) -> Negatives:
        """Draw the negatives of a global step with these targets, by random numbers from `seed`."""


def build_sampler(config: TrainConfig, tables: ItemTables) -> Sampler | None:
    """Build the sampler that `config` chooses; None if every item is scored."""
    if config.loss == "full":
        return None
    drawn = _drawn_items(config, tables)
    if config.negatives == "uniform":
        return UniformSampler(tables.num_items, config.num_negatives, drawn)
    assert tables.num_train is not None
    if config.negatives == "in_batch":  # whose negatives all have events
        return InBatchSampler(tables.num_train)
    # The full softmax contains items without events too; they are drawn as if they had one.
    return StratifiedSampler(np.maximum(tables.num_train, 1.0), config.num_negatives, drawn)


def _drawn_items(config: TrainConfig, tables: ItemTables) -> Ints | None:
    """Return the items that are drawn, ascending, where those without events are not; None: all.

    InputError if there are fewer than negatives.
    """
    if not config.excludes_untrained or config.negatives == "in_batch":
        return None
    assert tables.num_train is not None
    drawn: Ints = np.flatnonzero(tables.num_train).astype(np.int32)
    if config.num_negatives > len(drawn):
        raise InputError(
            f"train.num_negatives = {config.num_negatives}, but {len(drawn)} items have a training "
            f'event, and train.untrained_items is "excluded": set it to {len(drawn)} or less'
        )
    return drawn


class UniformSampler:
    """`StratifiedSampler` for equal weights, in closed form: nothing of it grows with X.

    With `drawn` only these items are drawn, which are 4 bytes each.
    """

    def __init__(self, num_items: int, num_negatives: int, drawn: Ints | None = None) -> None:
        self.num_items, self.num_negatives = num_items, num_negatives
        self.drawn = drawn

    def draw(self, targets: Ints, seed: int) -> Negatives:
        X, n = self.num_items if self.drawn is None else len(self.drawn), self.num_negatives
        draws = np.arange(n) + np.random.default_rng(seed).random(n)
        numbers = (draws * (X / n)).astype(np.int64)
        # The last draw may be rounded to n.
        items, times = np.unique(numbers.clip(max=X - 1), return_counts=True)
        items = items if self.drawn is None else self.drawn[items].astype(np.int64)
        return Negatives(items, np.log(times) - np.log(n / X))


class StratifiedSampler:
    """Sampler of n draws in proportion to `weights`, one draw per stratum; O(n log X) per step.

    The items lie side by side on the interval [0, n). The width of an item is its expected number
    of draws, at most 1. Each unit of the interval is a stratum and gives one uniform draw. So few
    draws are spent on repeats: an item of width 1 is drawn exactly once, an item across two strata
    at most twice. With n = X every item is drawn once. With `drawn` only these items are drawn.
    """

    def __init__(self, weights: Floats, num_negatives: int, drawn: Ints | None = None) -> None:
        items = np.arange(len(weights)) if drawn is None else drawn
        # Items of width 1 come first, so that each fills one stratum.
        self.order = items[np.argsort(-weights[items], kind="stable")].astype(np.int64)
        widths = expected_draws(weights[self.order], num_negatives)
        self.ends = np.cumsum(widths)
        self.log_widths, self.num_negatives = np.log(widths), num_negatives

    def draw(self, targets: Ints, seed: int) -> Negatives:
        n = self.num_negatives
        draws = np.arange(n) + np.random.default_rng(seed).random(n)
        ranks = np.searchsorted(self.ends, draws, side="right")
        # The last end may be rounded below n.
        ranks, times = np.unique(ranks.clip(max=len(self.ends) - 1), return_counts=True)
        return Negatives(self.order[ranks], np.log(times) - self.log_widths[ranks])


def expected_draws(weights: Floats, num_negatives: int) -> Floats:
    """Return n draws divided in proportion to the weights, but at most 1 for each item.

    `weights` are in descending order. The result sums to n.
    """
    rest = np.cumsum(weights[::-1])[::-1]
    left = num_negatives - np.arange(len(weights))
    num_certain = int(np.argmax(weights * left <= rest))  # items that would get more than 1
    widths = np.ones(len(weights))
    widths[num_certain:] = weights[num_certain:] * left[num_certain] / rest[num_certain]
    return widths


class InBatchSampler:
    """Sampler whose negatives are the targets of the step.

    In an epoch each training event but a user's first is a target once. So item i is expected as
    the target of another prefix in proportion to its training events. This is approximate: first
    events are counted too, and an item that is never a target is never a negative.
    """

    def __init__(self, num_train: Ints) -> None:
        self.num_train, self.total = num_train, num_train.sum()

    def draw(self, targets: Ints, seed: int) -> Negatives:
        items, times = np.unique(targets, return_counts=True)
        others = max(len(targets) - 1, 1)
        return Negatives(items, np.log(times * self.total / (others * self.num_train[items])))
