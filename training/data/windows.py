"""Windows of users' training events, and their cut into global steps.

A window holds at most `max_length` input events. The events of a window up to an input are a
prefix, and the event after the input is its target.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mdsrec.arrays import Ints


@dataclass(frozen=True)
class Samples:
    """Windows into one array of events.

    The inputs of sample s are events[starts[s]:stops[s]], and its targets are the same slice moved
    one event on.
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


class Step(NamedTuple):
    """One global step of an epoch: the samples of all ranks."""

    samples: Samples
    num_prefixes: int

    @property
    def targets(self) -> Ints:
        """Return the targets of all ranks in the order of the prefixes -> [num_prefixes]."""
        counts, stops = self.samples.num_prefixes, self.samples.stops
        events = np.arange(self.num_prefixes) + np.repeat(stops + 1 - np.cumsum(counts), counts)
        return self.samples.events[events]


def windows_of(events: Ints, offsets: Ints, train_end: Ints, max_length: int) -> Samples:
    """Cut the users' training events into windows.

    User u's training events are events[offsets[u]:][:train_end[u]]. All of them but the first are a
    target exactly once. A user with more than `max_length` inputs gets windows that overlap by
    half; a target in the overlap counts in the earlier window, which gives it the longer history.
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


def cut_into_steps(samples: Samples, batch_size: int) -> list[Step]:
    """Cut consecutive samples into steps of at most `batch_size` prefixes.

    A sample with more prefixes than that is a step by itself.
    """
    ends = np.cumsum(samples.num_prefixes)
    steps, start, done = [], 0, 0
    while start < len(samples):
        stop = max(int(np.searchsorted(ends, done + batch_size, side="right")), start + 1)
        steps.append(Step(samples[np.arange(start, stop)], int(ends[stop - 1]) - done))
        start, done = stop, int(ends[stop - 1])
    return steps
