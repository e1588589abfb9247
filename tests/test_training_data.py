"""Training data: the steps of an epoch, the events to rank, the checks of the item tables."""

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_dataset import NUM_USERS, small_experiment, write_dataset

from mdsrec import files, tables
from mdsrec.config import Experiment
from mdsrec.errors import InputError
from training.data.item_tables import load_item_tables
from training.data.sequences import EpochPosition, SequenceReader
from training.data.table_checks import check_item_tables
from training.data.windows import Step


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    experiment = small_experiment(tmp_path_factory.mktemp("root"))
    write_dataset(experiment)
    return experiment


def test_every_epoch_has_each_user_once_in_another_order(experiment: Experiment) -> None:
    reader = SequenceReader(experiment)
    orders = []
    for epoch in (0, 1):
        steps = list(reader.steps(epoch))
        assert sum(len(step.samples) for step in steps) >= NUM_USERS - 20
        assert all(step.num_prefixes <= 24 for step in steps)
        orders.append([step.samples.events[step.samples.starts].tolist() for step in steps])
    assert orders[0] != orders[1]
    repeated = [s.samples.events[s.samples.starts].tolist() for s in reader.steps(0)]
    assert repeated == orders[0]


def test_an_epoch_continues_at_any_position_with_the_steps_that_are_left(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = SequenceReader(experiment)
    epoch = list(reader.steps_from(1, EpochPosition()))
    assert {position.window for _, position in epoch} == {0, 1, 2}  # two shuffle windows
    groups = [len(window) for window in reader._shuffle_windows(1)]
    assert [position.number for _, position in epoch] == list(range(1, len(epoch) + 1))
    read: list[Any] = []
    read_group = reader._read_group
    monkeypatch.setattr(reader, "_read_group", lambda g: read.append(g) or read_group(g))
    for done, (_, position) in enumerate(epoch, 1):
        read.clear()
        rest = list(reader.steps_from(1, position))
        assert [p for _, p in rest] == [p for _, p in epoch[done:]]
        for (step, _), (expected, _) in zip(rest, epoch[done:], strict=True):
            assert_equal_steps(step, expected)
        assert len(read) == sum(groups[position.window :])
    assert epoch[-1][1].share == 1.0


def assert_equal_steps(step: Step, expected: Step) -> None:
    for name in ("events", "starts", "stops", "first_counted"):
        np.testing.assert_array_equal(getattr(step.samples, name), getattr(expected.samples, name))


def test_targets_are_the_events_that_the_split_holds_out(experiment: Experiment) -> None:
    reader = SequenceReader(experiment)
    valid, test = (reader.targets(0, NUM_USERS, split) for split in ("valid", "test"))
    assert [t.user for t in valid] == [t.user for t in test]
    for before, after in zip(valid, test, strict=True):
        assert after.history[-1] == before.target
        assert len(after.history) == len(before.history) + 1
    in_parts = [
        t for first in range(0, NUM_USERS, 7) for t in reader.targets(first, first + 7, "test")
    ]
    assert [t.user for t in in_parts] == [t.user for t in test]


@pytest.mark.parametrize("model", [{}, {"item_graph": False}, {"interest_centers": False}])
def test_checking_the_item_tables_returns_their_fingerprints_and_reads_no_data(
    experiment: Experiment, model: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = small_experiment(Path(experiment.root), model=model)
    expected = load_item_tables(changed).fingerprints
    monkeypatch.setattr(tables, "read_table", None)
    assert check_item_tables(changed) == expected
    assert {"sequences", "items", "cooccurrence"} < expected.keys()


def test_more_items_than_32_bits_number_are_refused_by_the_manifest(tmp_path: Path) -> None:
    experiment = small_experiment(tmp_path)
    write_dataset(experiment)
    path = Path(tables.table_uri(experiment.root, "items"), tables.MANIFEST)
    manifest = files.read_json(str(path))
    for rows, is_refused in ((2**31 - 1, False), (2**31, True)):
        path.write_text(json.dumps({**manifest, "rows": rows}))
        with (
            pytest.raises(InputError, match="32 bits: at most 2,147,483,647")
            if is_refused
            else (nullcontext())
        ):
            check_item_tables(experiment)


def test_a_shuffle_window_may_have_more_events_than_a_list_of_arrow(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = SequenceReader(experiment)
    window = next(reader._shuffle_windows(0))
    samples = reader._samples(window)
    assert len(window) > 1
    assert samples.events.dtype == np.int64
    expected = [reader._read_group(group)["items"].chunk(0).flatten() for group in window]
    np.testing.assert_array_equal(samples.events, np.concatenate(expected))
