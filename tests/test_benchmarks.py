"""The parts of benchmarks: synthetic data, readings, and the comparison of results."""

import gzip
import json
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks import restrict
from benchmarks.catalogue.events import HOT_ITEMS, Catalogue, write_sequences
from benchmarks.measure import DONE, measure, measure_command
from mdsrec import schema, tables
from mdsrec.errors import InputError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("synthetic")
    write_sequences(f"{folder}/sequences", Catalogue.of_interactions(3000))
    return folder


def rows_of(folder):
    return tables.read_table(f"{folder}/sequences", schema.SEQUENCES).to_pylist()


def test_synthetic_sequences_have_the_requested_size_and_repeat_no_item(folder):
    rows = rows_of(folder)
    events = sum(len(row["items"]) for row in rows)
    assert 0.95 * 3000 < events < 3000 + 5000
    assert [row["user"] for row in rows] == list(range(len(rows)))
    for row in rows:
        assert len(set(row["items"])) == len(row["items"]) == len(row["times"])
        assert row["times"] == sorted(row["times"])
        assert row["train_end"] == len(row["items"]) - (2 if len(row["items"]) >= 3 else 0)


def test_a_third_of_the_users_have_each_hot_item(folder):
    rows = rows_of(folder)
    hot = Catalogue.of_interactions(3000).order.by_popularity(np.arange(HOT_ITEMS)).tolist()
    for item in hot:
        assert sum(item in row["items"] for row in rows) > 0.2 * len(rows)


def test_a_reading_has_the_result_of_a_command_or_its_limit(folder):
    reading = measure("benchmarks.etl.cooccurrence", ["scipy", str(folder)], 4.0, 100)
    lengths = [row["train_end"] for row in rows_of(folder)]
    assert reading.outcome == DONE
    assert reading.result["pairs"] == sum(length * (length - 1) // 2 for length in lengths)
    assert 30 << 20 < reading.peak_bytes < 4 << 30
    stopped = measure("benchmarks.etl.cooccurrence", ["scipy", str(folder)], 0.01, 100)
    assert (stopped.outcome, stopped.result) == ("stopped: more than 0.01 GiB", {})


def test_tables_in_other_files_are_compared_row_by_row(tmp_path, monkeypatch):
    from benchmarks.etl import cooccurrence

    monkeypatch.setattr(cooccurrence, "COMPARED", 4)
    item, other = np.repeat(np.arange(5, dtype=np.int32), 2), np.tile(np.int32([7, 9]), 5)
    rows = pa.table({"item": item, "other": other, "score": np.arange(10.0)})
    moved = rows.set_column(2, "score", pa.array(np.arange(10.0) + np.eye(10)[8] / 4))
    for name, files in {"one": [rows], "two": [moved[:3], moved[3:]], "less": [rows[:3]]}.items():
        (tmp_path / name).mkdir()
        for number, table in enumerate(files):
            pq.write_table(table, tmp_path / name / f"part-{number}.parquet")
    assert cooccurrence.largest_difference(tmp_path / "one", tmp_path / "one") == 0
    assert cooccurrence.largest_difference(tmp_path / "one", tmp_path / "two") == 1 / 4
    assert cooccurrence.largest_difference(tmp_path / "one", tmp_path / "less") == float("inf")


@pytest.fixture
def raw_files(tmp_path):
    """Reviews and metadata of four items, and two files of vectors; B2 and B3 are in both."""
    reviews = [("u1", "B3"), ("u2", "B1"), ("u1", "B2"), ("u3", "B4"), ("u2", "B3")]
    lines = {
        "reviews.json.gz": [{"reviewerID": user, "asin": asin} for user, asin in reviews],
        "metadata.json.gz": [{"title": asin, "asin": asin} for asin in ("B1", "B2", "B3", "B4")],
    }
    for name, records in lines.items():
        with gzip.open(tmp_path / name, "wt") as file:
            file.writelines(f"{json.dumps(record)}\n" for record in records)
    for name, asins in {"text": ["B1", "B2", "B3"], "image": ["B3", "B2", "B9"]}.items():
        pq.write_table(pa.table({"asin": asins}), tmp_path / f"{name}.parquet")
    return tmp_path


def run_restrict(folder, out):
    sources = [str(folder / f"{name}.json.gz") for name in ("reviews", "metadata")]
    vectors = [str(folder / f"{name}.parquet") for name in ("text", "image")]
    restrict.main([*sources, str(out), "--to", *vectors])


def test_restricted_files_have_the_items_of_every_vector_file_in_order(raw_files, capsys):
    run_restrict(raw_files, raw_files / "less")
    with gzip.open(raw_files / "less" / "reviews.json.gz", "rt") as file:
        kept = [json.loads(line) for line in file]
    assert kept == [
        {"reviewerID": "u1", "asin": "B3"},
        {"reviewerID": "u1", "asin": "B2"},
        {"reviewerID": "u2", "asin": "B3"},
    ]
    with gzip.open(raw_files / "less" / "metadata.json.gz", "rt") as file:
        assert [json.loads(line)["asin"] for line in file] == ["B2", "B3"]
    assert "reviews.json.gz: 3 of 5 lines kept, 2 items" in capsys.readouterr().out


def test_files_restricted_again_have_the_same_bytes(raw_files):
    for out in ("one", "two"):
        run_restrict(raw_files, raw_files / out)
    for name in ("reviews.json.gz", "metadata.json.gz"):
        one, two = ((raw_files / out / name).read_bytes() for out in ("one", "two"))
        assert one == two
        assert one[4:8] == bytes(4)  # the time in the head of a gzip file


def test_a_line_without_an_asin_is_named_and_leaves_no_file(raw_files):
    with gzip.open(raw_files / "reviews.json.gz", "at") as file:
        file.write('{"reviewerID": "u4"}\n')
    with pytest.raises(InputError, match=r"reviews.json.gz line 6: not a JSON object with an asin"):
        run_restrict(raw_files, raw_files / "less")
    assert list((raw_files / "less").iterdir()) == []


def test_files_are_not_restricted_onto_themselves(raw_files):
    with pytest.raises(InputError, match="name another folder"):
        run_restrict(raw_files, raw_files)


def test_a_stopped_command_keeps_what_it_had_printed():
    program = "import time; print('{\"a\": 1}\\n{\"a\"', end='', flush=True); time.sleep(60)"
    reading = measure_command([sys.executable, "-c", program], 10.0, 2.0)
    assert reading.outcome != DONE
    assert (reading.result, reading.partial) == ({}, {"a": 1})
