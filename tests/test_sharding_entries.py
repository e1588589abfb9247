"""Rows of a sparse matrix from entries that arrive in any order, in bounded memory."""

import tracemalloc
from collections.abc import Iterator

import numpy as np
import pytest

from training.sharding import entry_rows
from training.sharding.entry_rows import Parts, rows_of_entries


def entries(num_rows: int, num_columns: int, number: int) -> Parts:
    """Return distinct entries in random order."""
    random = np.random.default_rng(0)
    keys = random.choice(num_rows * num_columns, number, replace=False)
    return keys // num_columns, keys % num_columns, random.random(number)


def in_batches(parts: Parts, size: int) -> Iterator[Parts]:
    for first in range(0, len(parts[0]), size):
        rows, columns, weights = (part[first : first + size] for part in parts)
        yield rows, columns, weights


@pytest.mark.parametrize("block", [1, 7, 1 << 20])
@pytest.mark.parametrize("size", [1, 13, 500])
def test_rows_are_those_of_a_sort_of_all_entries(monkeypatch, block, size):
    monkeypatch.setattr(entry_rows, "BLOCK", block)
    rows, columns, weights = entries(40, 30, 300)
    order = np.lexsort((columns, rows))
    expected, lengths = np.unique(rows, return_counts=True)
    found, matrix = rows_of_entries(in_batches((rows, columns, weights), size))
    assert np.array_equal(found, expected)
    assert np.array_equal(np.diff(matrix.starts), lengths)
    assert np.array_equal(matrix.columns, columns[order])
    assert np.array_equal(matrix.weights, weights[order].astype(np.float32))


def test_no_entries_are_no_rows():
    found, matrix = rows_of_entries(iter([]))
    assert len(found) == len(matrix.columns) == matrix.num_rows == 0


def test_an_entry_takes_twenty_bytes_at_the_peak_and_eight_later(monkeypatch):
    monkeypatch.setattr(entry_rows, "BLOCK", 1 << 12)
    number, num_rows = 1 << 18, 1 << 10
    batches = in_batches(entries(num_rows, 1 << 10, number), 1 << 12)
    tracemalloc.start()
    _, matrix = rows_of_entries(batches)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held == pytest.approx(8 * number, rel=0.05) and matrix.nbytes < held
    assert peak <= 21.5 * number
