"""Sequences streamed from Parquet: the same global steps for any number of workers.

A step is a set of whole users fixed by (seed, epoch, step) alone, of about `batch_size` prefixes.
Row groups are permuted, windows of them shuffled, sorted by length, cut into steps, and the steps
shuffled. Every rank computes the same plan and takes its slice.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from mdsrec import files, tables
from mdsrec.config import Experiment
from training.data.negatives import Negatives
from training.data.sparse import Ints
from training.models.base import Batch

GROUPS, WINDOW = 0, 1  # streams of random numbers


@dataclass(frozen=True)
class Samples:
    """Windows of users' training events; sample s predicts events starts[s]+1 ... stops[s] of
    `events`.
    """

    events: Ints
    starts: Ints
    stops: Ints
    first_counted: Ints  # inputs before this one were counted in the window before

    @property
    def num_prefixes(self) -> Ints:
        return self.stops - self.starts - self.first_counted

    def __getitem__(self, index: Ints) -> "Samples":
        return Samples(
            self.events, self.starts[index], self.stops[index], self.first_counted[index]
        )

    def __len__(self) -> int:
        return len(self.starts)


def windows_of(events: Ints, offsets: Ints, train_end: Ints, max_length: int) -> Samples:
    """Every training event that has one before it as a target exactly once.

    User u's events are events[offsets[u]:][:train_end[u]]. More than `max_length` inputs go into
    windows that overlap by half; each target counts in the window that gives it the most history.
    """
    num_inputs = np.maximum(train_end - 1, 0)
    half = max_length // 2
    beyond = np.maximum(num_inputs - max_length, 0)
    num_windows = np.where(num_inputs > 0, 1 + -(-beyond // half), 0)
    user = np.repeat(np.arange(len(train_end)), num_windows)
    window = np.arange(len(user)) - np.repeat(np.cumsum(num_windows) - num_windows, num_windows)
    starts = window * half
    stops = np.minimum(starts + max_length, num_inputs[user])
    first_counted = np.where(window > 0, max_length - half, 0)
    return Samples(events, offsets[user] + starts, offsets[user] + stops, first_counted)


class Step(NamedTuple):
    """One global step of an epoch."""

    samples: Samples
    num_prefixes: int

    @property
    def targets(self) -> Ints:
        """What its prefixes predict, whichever rank holds them -> [num_prefixes]."""
        counts, stops = self.samples.num_prefixes, self.samples.stops
        at = np.arange(self.num_prefixes) + np.repeat(stops + 1 - np.cumsum(counts), counts)
        return self.samples.events[at]


class EpochPosition(NamedTuple):
    """How far an epoch is: all windows before `window` are done, and of that one `step` steps."""

    window: int = 0
    step: int = 0
    number: int = 0  # steps of the epoch that are done
    share: float = 0.0  # of the epoch's users


class RowGroup(NamedTuple):
    """Users [first, last) of the sequences table: row u is user u."""

    path: str
    number: int
    first: int
    last: int


def _num_users(window: list[RowGroup]) -> int:
    return sum(group.last - group.first for group in window)


class SequenceReader:
    """The `sequences` table as training steps and as targets to rank."""

    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment
        uri = tables.table_uri(experiment.root, "sequences")
        manifest = tables.open_table(uri)
        self.num_users = manifest.rows
        self._file_system, _ = files.file_system(uri)
        self._groups = list(self._row_groups(tables.data_files(uri, manifest)))
        self._held = lru_cache(maxsize=1)(self._read)  # targets are asked for in order of user

    def _row_groups(self, paths: list[str]) -> Iterator[RowGroup]:
        first = 0
        for path in paths:
            metadata = pq.read_metadata(path, filesystem=self._file_system)
            for number in range(metadata.num_row_groups):
                last = first + metadata.row_group(number).num_rows
                yield RowGroup(path, number, first, last)
                first = last

    def _read(self, group: RowGroup) -> pa.Table:
        columns = ["items", "train_end", "valid_end"]
        with pq.ParquetFile(group.path, filesystem=self._file_system) as file:
            return file.read_row_group(group.number, columns)

    def steps(self, epoch: int) -> Iterator[Step]:
        """The global steps of an epoch, in order."""
        return (step for step, _ in self.steps_from(epoch, EpochPosition()))

    def steps_from(self, epoch: int, start: EpochPosition) -> Iterator[tuple[Step, EpochPosition]]:
        """The steps after `start`, each with the place that it leads to; windows before `start` are
        not read.
        """
        number, users = start.number, 0
        for index, window in enumerate(self._windows(epoch)):
            before, users = users, users + _num_users(window)
            if index < start.window:
                continue
            steps = self._steps_of(epoch, index, window)
            for position in range(start.step if index == start.window else 0, len(steps)):
                number, done = number + 1, position + 1
                share = (before + (users - before) * done / len(steps)) / self.num_users
                at = (index, done) if done < len(steps) else (index + 1, 0)
                yield steps[position], EpochPosition(*at, number, share)

    def _windows(self, epoch: int) -> Iterator[list[RowGroup]]:
        """Row groups in the epoch's order, as many together as `shuffle_window` asks for."""
        generator = np.random.default_rng([self.experiment.seed, epoch, GROUPS])
        window: list[RowGroup] = []
        for index in generator.permutation(len(self._groups)):
            window.append(self._groups[index])
            if _num_users(window) >= self.experiment.train.shuffle_window:
                yield window
                window = []
        if window:
            yield window

    def _steps_of(self, epoch: int, index: int, window: list[RowGroup]) -> list[Step]:
        generator = np.random.default_rng([self.experiment.seed, epoch, WINDOW, index])
        samples = self._samples(window)
        samples = samples[generator.permutation(len(samples))]
        samples = samples[np.argsort(samples.stops - samples.starts, kind="stable")]
        steps = _cut(samples, self.experiment.train.batch_size)
        return [steps[i] for i in generator.permutation(len(steps))]

    def _samples(self, window: list[RowGroup]) -> Samples:
        table = pa.concat_tables(self._read(group) for group in window)
        lists = table.column("items").combine_chunks()
        lengths = lists.value_lengths().to_numpy().astype(np.int64)
        return windows_of(
            lists.flatten().to_numpy().astype(np.int64),
            np.cumsum(lengths) - lengths,
            table.column("train_end").to_numpy().astype(np.int64),
            self.experiment.model.max_length,
        )

    def targets(self, first: int, last: int, split: str | None = None) -> list["Target"]:
        """What is to be predicted for users first <= user < last, in order of user, then time."""
        found: list[Target] = []
        for group in self._groups:
            start, stop = max(first, group.first), min(last, group.last)
            if start < stop:
                rows = self._held(group).slice(start - group.first, stop - start)
                found += _targets_of(rows, start)
        return [target for target in found if split is None or target.split == split]

    def histories(self, first: int, last: int) -> list[NDArray[np.int32]]:
        """All events of users first <= user < last, in order of user."""
        found: list[NDArray[np.int32]] = []
        for group in self._groups:
            start, stop = max(first, group.first), min(last, group.last)
            if start < stop:
                rows = self._held(group).slice(start - group.first, stop - start)
                found += [events.values.to_numpy() for events in rows.column("items")]
        return found


class Target(NamedTuple):
    """An event to predict from all that stands before it."""

    user: int
    split: str  # valid | test
    target: int
    history: NDArray[np.int32]


def _targets_of(rows: pa.Table, first_user: int) -> Iterator[Target]:
    columns = (rows.column(name) for name in ("items", "train_end", "valid_end"))
    for user, (items, train_end, valid_end) in enumerate(zip(*columns, strict=True), first_user):
        events = items.values.to_numpy()
        for position in range(max(train_end.as_py(), 1), len(events)):
            split = "valid" if position < valid_end.as_py() else "test"
            yield Target(user, split, int(events[position]), events[:position])


def _cut(samples: Samples, batch_size: int) -> list[Step]:
    """Consecutive samples of at most `batch_size` prefixes a step; a longer one stands alone."""
    ends = np.cumsum(samples.num_prefixes)
    steps, start, done = [], 0, 0
    while start < len(samples):
        stop = max(int(np.searchsorted(ends, done + batch_size, side="right")), start + 1)
        steps.append(Step(samples[np.arange(start, stop)], int(ends[stop - 1]) - done))
        start, done = stop, int(ends[stop - 1])
    return steps


def batch_of(
    step: Step,
    rank: int,
    world_size: int,
    noise: torch.Tensor,
    device: torch.device,
    negatives: Negatives | None = None,
) -> Batch:
    """Rank `rank`'s slice of a step; without a user of its own it holds one that does not count.

    `noise` [num_prefixes, ...] belongs to the step's prefixes in order, whoever computes them.
    """
    mine = np.arange(rank, len(step.samples), world_size)
    counts = bool(len(mine))
    mine = mine if counts else np.zeros(1, dtype=np.int64)
    samples = step.samples[mine]
    lengths = samples.stops - samples.starts
    T = int(lengths.max())
    at = np.arange(T)
    inside = at < lengths[:, None]
    index = np.where(inside, samples.starts[:, None] + at, samples.starts[:, None])
    counted = inside & (at >= samples.first_counted[:, None]) & counts
    first_prefix = (np.cumsum(step.samples.num_prefixes) - step.samples.num_prefixes)[mine]
    prefix = np.where(counted, first_prefix[:, None] + at - samples.first_counted[:, None], 0)
    items, place = np.unique(samples.events[index], return_inverse=True)
    targets = samples.events[index + 1][counted]
    return Batch(
        items=torch.from_numpy(items),
        place=torch.from_numpy(place.reshape(index.shape)).to(device),
        prefixes=torch.from_numpy(np.flatnonzero(counted)).to(device),
        targets=torch.from_numpy(targets).to(device),
        noise=noise[torch.from_numpy(prefix)].to(device),
        scored=None if negatives is None else negatives.beside(targets, device),
    )
