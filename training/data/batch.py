"""A rank's part of a global step, as tensors."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from training.data.device_matrices import STACKED, StackedEntries, stack
from training.data.negatives import Negatives, ScoredItems
from training.data.plans import Plan, SumPlan
from training.data.sparse import Entries
from training.data.windows import Step

SparseRows = Mapping[str, Entries | StackedEntries]
"""Sparse rows by product. For a GPU those of all products are together, as `STACKED`."""


class OwnItems(NamedTuple):
    """The items that this rank owns, where a batch scores all items: these are read as all."""

    number: int  # n
    values: Mapping[str, Tensor]  # [n + h, ...], by the name of the parameter: own rows first


class ItemRows(NamedTuple):
    """The rows that a batch reads of parameters with a row for each item."""

    ids: Tensor  # int64 [R], ascending
    values: dict[str, Tensor]  # [R, ...], by the name of the parameter
    products: Mapping[str, Tensor] = {}  # with the item embedding, which its owners computed
    own: OwnItems | None = None

    def at(self, name: str, items: Tensor) -> Tensor:
        """Return the rows of these items, which are all in `ids` -> [n, ...]."""
        return self.values[name].index_select(0, torch.searchsorted(self.ids, items))


class MaskedEvents(NamedTuple):
    """Events that are hidden from the encoder, some of which are predicted."""

    hidden: Tensor  # bool [B, T]
    lengths: Tensor  # int64 [B], events of each sequence
    weight: Tensor  # float64 [], of the loss of each predicted event


class Batch(NamedTuple):
    """A rank's part of a global step. Sequences are padded at the end."""

    items: Tensor  # int64 [n], the distinct input items, in host memory
    item_index: Tensor  # int64 [B, T], the inputs as indexes into `items`
    prefixes: Tensor  # int64 [P], the inputs in [B T] whose prefix counts in the loss
    targets: Tensor  # int64 [P], the item after each prefix
    noise: Tensor  # [B, T, ...], the random numbers that the model drew for each prefix
    scored: ScoredItems | None = None  # in the sampled softmax; None means all items are scored
    entries: SparseRows | None = None  # sparse rows of `items`; None: not selected yet
    scored_entries: SparseRows | None = None  # sparse rows of the scored items
    row_ids: Tensor | None = None  # int64 [R], ascending; see `ItemRows`. None: whole parameters
    plan: Plan | None = None  # of these rows, where ranks own items
    sums: Mapping[str, SumPlan] = {}  # products with the item embedding that their owners compute
    masked: MaskedEvents | None = None  # what the encoder does not see; None: nothing, or not yet


def batch_of(
    step: Step,
    rank: int,
    world_size: int,
    noise: Tensor,
    device: torch.device,
    negatives: Negatives | None = None,
) -> Batch:
    """Return the part of a step that `rank` computes: every `world_size`-th sample.

    A rank without a sample gets the first one with no prefix counted, so that it takes part in the
    collective operations. `noise` [num_prefixes, ...] belongs to the prefixes of the whole step in
    order, so it does not depend on the number of ranks.
    """
    mine = np.arange(rank, len(step.samples), world_size)
    has_samples = bool(len(mine))
    mine = mine if has_samples else np.zeros(1, dtype=np.int64)
    samples = step.samples[mine]
    lengths = samples.stops - samples.starts
    positions_T = np.arange(int(lengths.max()))
    inside_BT = positions_T < lengths[:, None]
    starts_B1, first_B1 = samples.starts[:, None], samples.first_counted[:, None]
    events_BT = np.where(inside_BT, starts_B1 + positions_T, starts_B1)
    counted_BT = inside_BT & (positions_T >= first_B1) & has_samples
    prefix_starts = (np.cumsum(step.samples.num_prefixes) - step.samples.num_prefixes)[mine]
    prefixes_BT = np.where(counted_BT, prefix_starts[:, None] + positions_T - first_B1, 0)
    items, index = np.unique(samples.events[events_BT], return_inverse=True)
    targets = samples.events[events_BT + 1][counted_BT]
    return Batch(
        items=torch.from_numpy(items),
        item_index=torch.from_numpy(index.reshape(events_BT.shape)).to(device),
        prefixes=torch.from_numpy(np.flatnonzero(counted_BT)).to(device),
        targets=torch.from_numpy(targets).to(device),
        noise=noise[torch.from_numpy(prefixes_BT)].to(device),
        scored=None if negatives is None else negatives.with_targets(targets, device),
    )


def with_stacked_rows(batch: Batch) -> Batch:
    """Return the batch with its sparse rows in the form for a GPU."""
    return batch._replace(
        entries=_stacked(batch.entries),
        scored_entries=_stacked(batch.scored_entries),
        sums={n: p._replace(entries=stack({n: p.entries})) for n, p in batch.sums.items()},
    )


def _stacked(rows: SparseRows | None) -> SparseRows | None:
    return {STACKED: stack(rows)} if rows else rows
