"""The co-occurrence table: the same bits in the same files for any partitioning of Spark."""

import hashlib
import logging
from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from etl.graph import cooccurrence
from etl.graph.cooccurrence import _write_sums, write_cooccurrence
from etl.graph.pairs import EVENTS_PER_PIECE, Parts
from etl.graph.weighting import Cooccurrence, Transitions
from mdsrec import schema, tables
from mdsrec.errors import InputError

pytestmark = pytest.mark.spark

NUM_ITEMS = 7


def plain(sequences, max_distance=None):
    """Return {(item, other): score} by the definition."""
    found = defaultdict(float)
    for items in sequences:
        for p, item in enumerate(items):
            for q in range(p + 1, min(len(items), p + (max_distance or len(items)) + 1)):
                if item != items[q]:
                    found[item, items[q]] += 1 / (q - p)
                    found[items[q], item] += 1 / (q - p)
    return dict(found)


def write_and_commit(spark, folder, sequences, partitions=2, num_items=NUM_ITEMS, **options):
    """Return (rows of the committed table, its manifest, {file: hash of its bytes})."""
    options = {"weighting": Cooccurrence(), "rows_per_file": 4, "part_size": 25} | options
    frame = spark.createDataFrame([(items,) for items in sequences], "items array<int>")
    version = f"{folder}/0123456789ab"
    spark.conf.set("spark.sql.shuffle.partitions", partitions)
    try:
        training = frame.repartition(partitions)
        rows, counters = write_cooccurrence(training, num_items, version_uri=version, **options)
    finally:
        spark.conf.set("spark.sql.shuffle.partitions", 2)
    manifest = tables.commit(str(folder), version, tables.Recipe({}, {}), rows, counters)
    files = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in Path(version).glob("*.parquet")
    }
    return tables.read_table(str(folder), schema.COOCCURRENCE), manifest, files


def scores(table):
    return {(row["item"], row["other"]): row["score"] for row in table.to_pylist()}


@settings(max_examples=3, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(st.integers(0, NUM_ITEMS - 1), max_size=7), min_size=1, max_size=6))
def test_o_equals_plain_python_at_one_three_and_eight_partitions(
    spark, tmp_path_factory, sequences
):
    expected = plain(sequences)
    results = [
        write_and_commit(spark, tmp_path_factory.mktemp("o"), sequences, partitions)
        for partitions in (1, 3, 8)
    ]
    table, manifest, files = results[0]
    assert scores(table) == pytest.approx(expected, rel=1e-9)
    keys = list(zip(table["item"].to_pylist(), table["other"].to_pylist(), strict=True))
    assert keys == sorted(expected)
    assert manifest.counters["pairs"] == sum(
        items[p] != items[q] for items in sequences for q in range(len(items)) for p in range(q)
    )
    for other_table, other_manifest, other_files in results[1:]:
        assert other_table.equals(table)
        assert other_manifest.counters == manifest.counters
        assert other_files == files


def test_an_item_of_all_users_is_divided_into_parts_with_bounded_files(spark, tmp_path):
    rng = np.random.default_rng(0)
    sequences = [[0, *rng.choice(np.arange(1, 40), 4, replace=False).tolist()] for _ in range(50)]
    options = {"num_items": 40, "part_size": 50, "rows_per_file": 7}
    table, manifest, files = write_and_commit(spark, tmp_path / "one", sequences, 1, **options)
    _, _, again = write_and_commit(spark, tmp_path / "eight", sequences, 8, **options)
    assert files == again
    assert scores(table) == pytest.approx(plain(sequences), rel=1e-9)
    assert max(file.rows for file in manifest.files) == 7
    first_other_by_part = {}
    for path in sorted((tmp_path / "one").rglob("*.parquet")):
        found = pq.read_table(path)
        if found["item"][0].as_py() == 0:
            first_other_by_part.setdefault(path.name.split("-")[1], found["other"][0].as_py())
    assert (
        len(first_other_by_part) == 50 * 4 // 50
    )  # the item is an end of 4 pairs of each of 50 users
    assert list(first_other_by_part.values()) == sorted(first_other_by_part.values())


@pytest.mark.slow
def test_a_larger_input_has_larger_parts_and_files_not_more(spark, tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    sequences = [rng.permutation(20)[:6].tolist() for _ in range(60)]
    options = {"num_items": 20, "part_size": 10, "rows_per_file": 3}
    small, manifest, _ = write_and_commit(spark, tmp_path / "many", sequences, **options)
    assert len(manifest.files) > 60
    monkeypatch.setattr(cooccurrence, "MAX_PARTS", 3)
    large, manifest, _ = write_and_commit(spark, tmp_path / "few", sequences, **options)
    assert len(manifest.files) <= 2 * 3 and large.equals(small)


def test_transitions_of_an_item_of_all_users_are_the_same_bits_in_any_partitioning(spark, tmp_path):
    rng = np.random.default_rng(0)
    sequences = [[*rng.integers(1, 40, 4).tolist(), 0, 0] for _ in range(50)]
    weighting = Transitions(decay=0.5, reverse=0.25, max_distance=3)
    options = {"num_items": 40, "part_size": 50, "rows_per_file": 7, "weighting": weighting}
    table, manifest, files = write_and_commit(spark, tmp_path / "one", sequences, 1, **options)
    again, manifest_again, same = write_and_commit(
        spark, tmp_path / "eight", sequences, 8, **options
    )
    assert (files, manifest.counters) == (same, manifest_again.counters)
    assert table.equals(again)
    expected = defaultdict(float)
    for items in sequences:
        for p, item in enumerate(items):
            for distance, later in enumerate(items[p + 1 : p + 4], start=1):
                expected[item, later] += 0.5 ** (distance - 1)
                expected[later, item] += 0.25 * 0.5 ** (distance - 1)
    assert scores(table) == pytest.approx(dict(expected), rel=1e-11)
    assert manifest.counters["pairs"] == 50 * (5 + 4 + 3)
    assert manifest.counters["kept_weight"] == 50 * (5 + 4 / 2 + 3 / 4)
    assert manifest.counters["lost_weight"] == pytest.approx(50 * (2 / 8 + 1 / 16))


def test_a_transition_whose_weight_is_nothing_has_no_row(spark, tmp_path):
    forward_only = Transitions(decay=1e-9, reverse=0.0, max_distance=20)
    table, _, _ = write_and_commit(spark, tmp_path, [[0, 1, 2, 3]], weighting=forward_only)
    near = {(0, 1): 1, (1, 2): 1, (2, 3): 1}
    far = {(0, 2): 1e-9, (1, 3): 1e-9}  # and 0 -> 3 weighs 1e-18, below the fixed point
    assert scores(table) == pytest.approx(near | far, rel=1e-3)


def test_pairs_past_max_distance_are_left_out_and_their_weight_is_reported(spark, tmp_path, caplog):
    caplog.set_level(logging.INFO, "etl")
    sequences = [[0, 1, 2, 3], [4, 5]]
    weighting = Cooccurrence(max_distance=1)
    table, manifest, _ = write_and_commit(spark, tmp_path, sequences, weighting=weighting)
    assert scores(table) == plain(sequences, 1)
    lost = 2 * (1 / 2) + 1 * (1 / 3)  # two pairs at distance 2, one at 3
    kept = 3 * 1 + 1 * 1
    assert manifest.counters == pytest.approx(
        {
            "pairs": 3 + 1,
            "kept_weight": kept,
            "lost_weight": lost,
            "lost_share": lost / (lost + kept),
        }
    )
    assert "graph.max_distance = 1 leaves out 25% of all weight (1.33333)" in caplog.text


def test_a_history_of_several_pieces_has_each_pair_once(spark, tmp_path):
    history = np.random.default_rng(0).integers(0, 50, 2 * EVENTS_PER_PIECE + 3).tolist()
    weighting = Cooccurrence(max_distance=2)
    options = {"num_items": 50, "part_size": 10_000, "rows_per_file": 1000}
    table, _, _ = write_and_commit(
        spark, tmp_path, [history, [3, 4]], weighting=weighting, **options
    )
    assert scores(table) == pytest.approx(plain([history, [3, 4]], 2), rel=1e-9)


def test_sequences_without_a_pair_give_an_empty_table(spark, tmp_path):
    table, manifest, _ = write_and_commit(spark, tmp_path, [[2], [], [3, 3]])
    assert (table.num_rows, manifest.files, manifest.counters["pairs"]) == (0, (), 0)


def test_the_error_for_a_sum_that_overflows_names_the_items(tmp_path):
    pairs = np.full(4_000_000, 9 << 2 | 2).tobytes()  # weights of SCALE: 4e6 * 2.3e12 > 2^63
    batch = pa.RecordBatch.from_pydict({"part": pa.array([0], pa.int32()), "pairs": [pairs]})
    parts = Parts(np.array([0, NUM_ITEMS**2]), bits=2)
    # key 9 = 1 * 7 + 2
    with pytest.raises(InputError, match=r"items 1 and 2 co-occur too often.* graph.max_distance"):
        list(_write_sums(NUM_ITEMS, Cooccurrence(), 1, parts, str(tmp_path), 10, iter([batch])))
    assert not list(tmp_path.rglob("*.parquet"))
