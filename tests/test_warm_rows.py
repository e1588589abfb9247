"""Rows of items carried from one catalogue to another: the streamed form against a plain one."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import small_dataset
from hypothesis import given
from hypothesis import strategies as st
from small_dataset import small_experiment

from mdsrec import schema, tables
from mdsrec.errors import InputError
from mdsrec.table_names import neighbors_name
from training.warm import near_rows
from training.warm.item_map import map_items
from training.warm.near_rows import Graph, add_near_rows
from training.warm.source import ItemIds

Row = tuple[float, ...]
Lists = Mapping[str, Sequence[str]]


def plain_rows(
    ids: Sequence[str],
    source: Mapping[str, Row],
    trained: Mapping[str, int],
    graphs: Sequence[Lists],
    most: int,
) -> dict[str, Row]:
    """Return the rows of the items `ids` that get one, by id: the equations, word by word."""
    carried = {i: source[i] for i in ids if i in source and trained[i] > 0}
    found = dict(carried)
    for i in ids:
        near = [[j for j in graph.get(i, []) if j in carried][:most] for graph in graphs]
        means = [np.mean([carried[j] for j in each], axis=0) for each in near if each]
        if i not in carried and means:
            found[i] = tuple(np.mean(means, axis=0))
    return found


def items_table(root: Path, num_train: Mapping[str, int], rows_per_file: int = 10**6) -> ItemIds:
    ids, none = list(num_train), [None] * len(num_train)
    columns = [range(len(ids)), ids, none, none, none, list(num_train.values())]
    experiment = small_experiment(root)
    small_dataset._write(experiment, "items", schema.ITEMS, columns, 0, rows_per_file)
    return ItemIds.of_root(str(root))


def graph_table(root: Path, modality: str, ids: Sequence[str], lists: Lists) -> Graph:
    experiment, item_of = small_experiment(root), {i: item for item, i in enumerate(ids)}
    name = neighbors_name(experiment, modality)
    near = [[item_of[j] for j in lists[i]] for i in ids if i in lists]
    owners = [item_of[i] for i in ids if i in lists]
    columns: list[Any] = [owners, near, [[0.0] * len(each) for each in near]]
    small_dataset._write(experiment, name, schema.NEIGHBORS, columns, 0, rows_per_file=3)
    uri = tables.table_uri(str(root), name)
    return Graph(uri, tables.open_table(uri))


def carried_rows(
    target: ItemIds, source: ItemIds, rows: Any, graphs: Sequence[Graph], most: int
) -> tuple[Any, Any]:
    """Return the rows of all items of the target, and which items have one."""
    found = map_items(target, source)
    kept = found.carried >= 0
    carried = np.zeros((target.manifest.rows, rows.shape[1]), np.float32)
    carried[found.carried[kept]] = rows[kept]
    near = add_near_rows({"rows": carried}, found.trained, graphs, most)
    assert not (near & found.trained).any()
    return carried, near | found.trained


def test_a_new_item_is_the_mean_of_means_over_its_modalities(tmp_path: Path) -> None:
    source = items_table(tmp_path / "a", {"a": 2, "b": 1, "c": 3, "u": 0})
    ids = ["a", "b", "c", "n"]
    target = items_table(tmp_path / "b", dict.fromkeys(ids, 1))
    text = graph_table(tmp_path / "b", "text", ids, {"n": ["c", "a", "b"]})
    image = graph_table(tmp_path / "b", "image", ids, {"n": ["b"]})
    rows = np.array([[1.0], [10.0], [100.0], [1000.0]], np.float32)
    found, has = carried_rows(target, source, rows, [text, image], most=2)
    assert found.ravel().tolist() == [1.0, 10.0, 100.0, ((100 + 1) / 2 + 10) / 2]
    assert has.all()


def test_neighbors_that_were_never_trained_are_passed_over(tmp_path: Path) -> None:
    source = items_table(tmp_path / "a", {"a": 1, "b": 1, "u": 0})
    ids = ["a", "b", "n", "o", "u"]
    target = items_table(tmp_path / "b", dict.fromkeys(ids, 1))
    lists = {"n": ["u", "o", "b", "a"], "o": ["n", "u"], "u": ["a", "b"]}
    text = graph_table(tmp_path / "b", "text", ids, lists)
    rows = np.array([[1.0], [3.0], [50.0]], np.float32)
    found, has = carried_rows(target, source, rows, [text], most=1)
    assert found.ravel().tolist() == [1.0, 3.0, 3.0, 0.0, 1.0]  # o knows no trained item
    assert has.tolist() == [True, True, True, False, True]


def test_items_of_the_source_only_are_counted(tmp_path: Path) -> None:
    source = items_table(tmp_path / "a", {"a": 1, "b": 1, "c": 0, "d": 1})
    target = items_table(tmp_path / "b", {"b": 1, "c": 1, "e": 1})
    found = map_items(target, source)
    assert found.target_of.tolist() == [-1, 0, 1, -1]
    assert found.trained.tolist() == [True, False, False]
    assert found.carried.tolist() == [-1, 0, -1, -1]
    assert found.num_dropped == 2


def test_ids_are_ordered_by_their_bytes(tmp_path: Path) -> None:
    ids = ["B", "Z", "a", "é", "\uffff", "\U0001f600"]  # UTF-16 would order the last two otherwise
    source = items_table(tmp_path / "a", dict.fromkeys(ids, 1), rows_per_file=2)
    target = items_table(tmp_path / "b", dict.fromkeys(ids, 1), rows_per_file=3)
    assert map_items(target, source).target_of.tolist() == [0, 1, 2, 3, 4, 5]
    wrong = items_table(tmp_path / "c", dict.fromkeys(["b", "a"], 1), rows_per_file=1)
    with pytest.raises(InputError, match="not in the order of item_id"):
        map_items(target, wrong)


ids = st.lists(st.text("abcé", min_size=1, max_size=3), unique=True, min_size=1, max_size=12)


@given(st.data())
def test_the_streamed_rows_are_those_of_the_plain_form(data: st.DataObject) -> None:
    def catalogue() -> list[str]:
        return sorted(data.draw(ids), key=str.encode)

    def lists() -> dict[str, list[str]]:
        owners = [i for i in target_ids if data.draw(st.booleans())]
        others = st.lists(st.sampled_from(target_ids), unique=True, max_size=5)
        return {i: [j for j in data.draw(others) if j != i] for i in owners}

    source_ids, target_ids = catalogue(), catalogue()
    trained = {i: data.draw(st.integers(0, 2)) for i in source_ids}
    rows_per_file, most = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 3))
    graphs = [lists(), lists()]
    rows = np.random.default_rng(1).normal(size=(len(source_ids), 2)).astype(np.float32)
    expected = plain_rows(
        target_ids, dict(zip(source_ids, rows.tolist(), strict=True)), trained, graphs, most
    )
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(near_rows, "ITEMS", 2)
        source = items_table(Path(folder, "a"), trained, rows_per_file)
        target = items_table(Path(folder, "b"), dict.fromkeys(target_ids, 1), rows_per_file)
        stored = [
            graph_table(Path(folder, "b"), modality, target_ids, each)
            for modality, each in zip(("text", "image"), graphs, strict=True)
        ]
        found, has = carried_rows(target, source, rows, stored, most)
    assert [i for i, is_set in zip(target_ids, has, strict=True) if is_set] == [
        i for i in target_ids if i in expected
    ]
    for place, i in enumerate(target_ids):
        np.testing.assert_allclose(found[place], expected.get(i, (0, 0)), atol=1e-6)
