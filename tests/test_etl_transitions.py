"""The tables `transitions` and `memory`, built by Spark from tables written by hand."""

import logging
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from etl.builders.transitions import TransitionsBuilder
from etl.builders.workspace import Workspace
from etl.transitions import memory, spreading
from mdsrec import schema, tables
from mdsrec.config.loading import experiment_from
from mdsrec.errors import InputError
from mdsrec.table_names import memory_name, neighbors_name, transitions_name

NUM_ITEMS = 12
SECTION = {"decay": 0.5, "num_neighbors": 2, "max_entries": 5}
MODALITIES = ("text", "image")


def experiment_at(folder, **sections):
    for name in ("reviews.json", "text.parquet", "image.parquet"):
        (folder / name).write_text("{}\n")
    content = {
        "name": "x",
        "root": str(folder / "root"),
        "input": {"edition": "2018", "reviews": [str(folder / "reviews.json")]},
        "features": {m: {"vectors": str(folder / f"{m}.parquet")} for m in MODALITIES},
        "graph": {"max_neighbors": 3},
        "model": {"memory": True, "num_neighbors": 3, "mu": 0.2},
        "transitions": SECTION,
        "spark": {"rows_per_file": 20},
    }
    for name, values in sections.items():
        content[name] = content.get(name, {}) | values
    return experiment_from(content, "test")


def train_end(history):
    """Return the number of events before a cut in time; some users have none."""
    return sum(time < 40 for _, time in history)


def write_world(space, seed=None):
    """Write items, sequences and neighbors; `seed` permutes the held-out events among users."""
    rng = np.random.default_rng(0)
    histories = []
    for _ in range(20):
        times = sorted(rng.integers(0, 100, rng.integers(3, 9)).tolist())
        histories.append([(int(rng.integers(NUM_ITEMS)), time) for time in times])
    ends = [train_end(history) for history in histories]
    items = [[item for item, _ in history] for history in histories]
    if seed is not None:
        held_out = [i for row, end in zip(items, ends, strict=True) for i in row[end:]]
        permuted = iter(np.random.default_rng(seed).permutation(held_out).tolist())
        items = [
            row[:end] + [next(permuted) for _ in row[end:]]
            for row, end in zip(items, ends, strict=True)
        ]
    rows = [
        {"user": user, "items": row, "train_end": end, "valid_end": end}
        for user, (row, end) in enumerate(zip(items, ends, strict=True))
    ]
    write(space, "sequences", schema.SEQUENCES, rows)
    write(space, "items", schema.ITEMS, [{"item": item} for item in range(NUM_ITEMS)])
    for number, modality in enumerate(MODALITIES):
        present = range(3 * number, NUM_ITEMS)  # items 0 to 2 have no image
        lists = []
        for item in present:
            others = rng.permutation([other for other in present if other != item])[:3]
            similarities = sorted(rng.random(3).tolist(), reverse=True)
            lists.append({"item": item, "neighbors": others.tolist(), "similarities": similarities})
        name = neighbors_name(space.experiment, modality, 1.0)
        write(space, name, schema.NEIGHBORS, lists)
    return [row[:end] for row, end in zip(items, ends, strict=True)]


def write(space, name, table_schema, rows):
    rows = pa.Table.from_pylist(rows, table_schema)
    tables.write_table(space.uri(name), rows.to_batches(), table_schema, space.recipes[name])


def build(spark, folder, seed=None):
    """Return the tables `transitions` and `memory`, the training events and the workspace."""
    folder.mkdir(exist_ok=True)
    space = Workspace(experiment_at(folder), spark)
    training = write_world(space, seed)
    builder = TransitionsBuilder(space)
    builder.build_transitions()
    builder.build_memory()
    return (*read(space), training, space)


def read(space):
    names = transitions_name(space.experiment), memory_name(space.experiment)
    schemas = schema.TRANSITIONS, schema.MEMORY
    return [
        tables.read_table(space.uri(name), table_schema)
        for name, table_schema in zip(names, schemas, strict=True)
    ]


def dense(table):
    M = np.zeros((NUM_ITEMS, NUM_ITEMS))
    M[table["item"].to_numpy(), table["other"].to_numpy()] = table["score"].to_numpy()
    return M


@pytest.mark.spark
def test_events_after_a_cut_in_time_never_reach_the_memory(spark, tmp_path):
    transitions, memory, training, _ = build(spark, tmp_path / "one")
    permuted, memory_of_permuted, same, _ = build(spark, tmp_path / "two", seed=1)
    assert training == same and any(training) and not all(training)
    assert transitions.num_rows and permuted.equals(transitions)
    assert memory.num_rows and memory_of_permuted.equals(memory)


@pytest.mark.spark
def test_the_tables_equal_dense_numpy_in_any_spans(spark, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(spreading, "SPAN_BYTES", 1)  # an item per task
    monkeypatch.setattr(memory, "WAVE_BYTES", 3 * memory.SPAN_BYTES)  # so there are two waves
    caplog.set_level(logging.INFO, "etl")
    transitions, M, training, space = build(spark, tmp_path / "small")
    C = np.zeros((NUM_ITEMS, NUM_ITEMS))
    for row in training:
        for p, item in enumerate(row):
            for distance, later in enumerate(row[p + 1 :], start=1):
                C[item, later] += 0.5 ** (distance - 1)
                C[later, item] += 0.5 * 0.5 ** (distance - 1)
    np.testing.assert_allclose(dense(transitions), C, rtol=1e-11)
    assert max(Counter(M["item"].to_pylist()).values()) == 5
    monkeypatch.undo()
    TransitionsBuilder(space).build_memory()
    assert read(space)[1].equals(M)  # with all items in one task
    for table in (transitions, M):
        keys = table.select(["item", "other"]).to_pylist()
        assert keys == sorted(keys, key=lambda row: (row["item"], row["other"]))
    counters = space.manifest(memory_name(space.experiment)).counters
    assert counters["memory_rows_cut"] == NUM_ITEMS and 0 < counters["memory_lost_share"] < 1
    assert "transitions.max_entries = 5 leaves out" in caplog.text


def settings_built(before, after):
    """Return the tables of `after` that are not among those of `before`, without their keys."""
    old, new = Workspace(before).recipes, Workspace(after).recipes
    kinds = [name.split("/")[0].split(",")[0] for name in new if new[name] != old.get(name)]
    return sorted(set(kinds))


@pytest.mark.parametrize(
    ("changes", "rebuilt"),
    [
        ({"decay": 0.25}, ["memory", "transitions"]),
        ({"max_distance": 3}, ["memory", "transitions"]),
        ({"reverse": 0.0}, ["memory", "transitions"]),
        ({"spread": 0.125}, ["memory"]),
        ({"similarity": 1.0}, ["memory"]),
        ({"max_entries": 6}, ["memory"]),
        ({"num_neighbors": 1}, ["memory"]),
        ({"mu": 2.0}, ["memory", "neighbors"]),
        ({"recency": 0.5, "max_events": 3, "tau": 1.0}, []),
    ],
)
def test_a_changed_key_rebuilds_only_what_depends_on_it(tmp_path, changes, rebuilt):
    changed = experiment_at(tmp_path, transitions=SECTION | changes)
    assert settings_built(experiment_at(tmp_path), changed) == rebuilt


def test_the_memory_adds_tables_and_changes_none(tmp_path):
    without = experiment_at(tmp_path, model={"memory": False})
    with_memory = experiment_at(tmp_path)
    recipes = Workspace(with_memory).recipes
    assert Workspace(without).recipes.items() <= recipes.items()
    assert recipes.keys() - Workspace(without).recipes.keys() == {
        *("neighbors/text/mu=1", "neighbors/image/mu=1", "transitions,decay=0.5"),
        "memory/text+image,decay=0.5,num_neighbors=2,max_entries=5",
    }
    assert without.identity() == with_memory.identity()


def test_names_hold_every_changed_key_and_a_memory_that_is_not_spread_no_modality(tmp_path):
    keys = {"decay": 0.7, "num_neighbors": 0, "spread": 1e-5, "similarity": 3.0}
    counted = experiment_at(tmp_path, transitions=keys)
    name = "memory,num_neighbors=0,spread=0.00001,similarity=3,max_entries=5"
    assert memory_name(counted) == name
    assert set(Workspace(counted).recipes[name].inputs) == {"transitions"}
    other_graph = experiment_at(tmp_path, graph={"normalize": "none"})
    assert memory_name(other_graph).endswith(",max_entries=5,graph.normalize=none")


def test_more_neighbors_than_are_stored_is_an_error_only_where_they_are_read(tmp_path):
    keys = {"num_neighbors": 4}
    words = r"transitions.num_neighbors 4 exceeds graph.max_neighbors 3"
    with pytest.raises(InputError, match=words):
        experiment_at(tmp_path, transitions=keys)
    experiment_at(tmp_path, transitions=keys, model={"memory": False})
    experiment_at(tmp_path, transitions=keys, model={"modalities": []})
