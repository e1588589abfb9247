"""Numbers of 31 bits in the ETL: each is avoided, or refused by name before any work."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from etl.catalogue import raw
from etl.catalogue.items import MAX_ITEMS, check_num_items
from etl.catalogue.raw import numbered_lines
from etl.features import vector_blocks
from etl.features.vector_blocks import _pack
from etl.features.vector_files import ParquetVectors
from etl.features.vectors import MAX_WIDTH, check_vectors
from etl.graph.pairs import Pairs, Parts, split_by_part
from mdsrec.errors import InputError


def test_more_items_than_31_bits_number_are_refused():
    check_num_items(2**31 - 1)
    with pytest.raises(InputError, match=r"2,147,483,648 items, but .* raise sequences.k_core"):
        check_num_items(2**31)
    assert np.iinfo(np.int32).max == MAX_ITEMS


@pytest.mark.spark
def test_vectors_wider_than_a_value_of_spark_are_refused(spark):
    columns = "item_id string, item int, width long, finite boolean"
    rows = spark.createDataFrame([("B0", 0, 2**29, True)], columns)
    with pytest.raises(InputError, match=r"^v: the vectors have 536,870,912 numbers, but Spark"):
        check_vectors(rows, "v")
    assert 4 * MAX_WIDTH < 2**31 <= 4 * (MAX_WIDTH + 1)
    widest = spark.createDataFrame([("B0", 0, MAX_WIDTH, True)], columns)
    assert check_vectors(widest, "v") == MAX_WIDTH


def test_a_row_group_of_more_than_31_bits_goes_through_spark_in_batches():
    """2^31 bytes are 699,051 vectors of 768 numbers; the vectors share one row of memory."""
    num_vectors, width = 699_051, 768
    assert 4 * width * num_vectors > 2**31
    row = np.arange(width, dtype=np.float32)
    vectors = np.broadcast_to(row, (num_vectors, width))
    seen = 0
    for batch in _pack(np.arange(num_vectors), vectors):
        assert batch.nbytes < 2 * vector_blocks.BATCH_BYTES
        assert batch["item"][0].as_py() == seen
        assert batch["vector"][-1].as_py() == row.tobytes()
        seen += batch.num_rows
    assert seen == num_vectors


def test_a_brought_row_group_is_read_in_batches(tmp_path):
    vectors = pa.array([[1.0, 2.0]] * 5000, pa.list_(pa.float32()))
    table = pa.table({"item_id": [f"B{n}" for n in range(5000)], "vector": vectors})
    pq.write_table(table, tmp_path / "v.parquet", row_group_size=5000)
    source = ParquetVectors.open(str(tmp_path / "v.parquet"))
    assert len(source) == 1 and max(map(len, source.batches(0))) == 1024


def test_a_line_that_spark_could_not_hold_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(raw, "LONGEST_LINE", 2 << 20)  # the real limit is 1 GiB
    (tmp_path / "fits.json").write_bytes(b"a" * ((2 << 20) - 1) + b"\nb\n")
    lengths = [len(line) for _, line in numbered_lines(str(tmp_path / "fits.json"))]
    assert lengths == [(2 << 20) - 1, 1]
    path = tmp_path / "long.json"
    path.write_bytes(b"a\n")
    with path.open("r+b") as file:
        file.truncate(5 << 20)  # a sparse file: zeros without an end of a line
    with pytest.raises(InputError, match=r"long\.json: line 2 is longer than 2 MiB: is it a"):
        list(numbered_lines(str(path)))


def test_distances_of_more_than_30_bits_keep_their_codes():
    pairs = Pairs(*(np.array([n], np.int32) for n in (0, 1, 2**30)))
    parts = Parts(np.array([0, 4]), 32)
    [(_, packed)] = split_by_part(pairs, 2, parts)
    assert (packed & (2**32 - 1)).tolist() == [2**31, 2**31 + 1]
    assert (packed >> 32).tolist() == [0 * 2 + 1, 1 * 2 + 0]
