"""Part files, which tasks write themselves."""

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from etl.spark import part_files
from etl.spark.part_files import write_part_file
from etl.spark.vector_table import ItemTable, VectorTable, vector_rows
from mdsrec import arrays
from mdsrec.schema import FEATURES

TABLE = pa.table({"item": pa.array([0, 0, 5], pa.int32()), "score": [0.5, 1.0, 0.25]})

INTERRUPTED = """
import resource, sys
import numpy as np, pyarrow as pa
from etl.spark.part_files import write_part_file
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
rows = pa.table({"score": np.random.default_rng(0).random(100_000)})
write_part_file(sys.argv[1], "part-00000", rows)
"""


def test_a_part_file_reads_back_as_it_was_written(tmp_path):
    write_part_file(f"{tmp_path}/version", "part-00003-000", TABLE, ascending=("item",))
    path = tmp_path / "version" / "part-00003-000.parquet"
    assert pq.read_table(path).equals(TABLE)
    column = pq.read_metadata(path).row_group(0).column(0)
    assert (column.compression, "DELTA_BINARY_PACKED" in column.encodings) == ("ZSTD", True)


def test_lists_of_floats_are_byte_stream_split_and_integers_are_not(tmp_path):
    rows = pa.table({"item": pa.array([0, 1], pa.int32()), "vector": [[0.5, 1.0], [0.25, 2.0]]})
    write_part_file(str(tmp_path), "part-00000", rows)
    path = tmp_path / "part-00000.parquet"
    assert pq.read_table(path).equals(rows)
    group = pq.read_metadata(path).row_group(0)
    split = ["BYTE_STREAM_SPLIT" in group.column(n).encodings for n in range(2)]
    assert split == [False, True]


def test_an_interrupted_write_leaves_no_part_file(tmp_path):
    ended = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "File too large" in ended.stderr
    assert not list(tmp_path.rglob("*.parquet"))


def test_a_retried_task_writes_the_same_file(tmp_path):
    write_part_file(str(tmp_path), "part-00000", TABLE)
    first = (tmp_path / "part-00000.parquet").read_bytes()
    write_part_file(str(tmp_path), "part-00000", TABLE)
    assert (tmp_path / "part-00000.parquet").read_bytes() == first
    assert len(list(tmp_path.iterdir())) == 1


def test_row_groups_are_bounded_in_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(part_files, "ROW_GROUP_BYTES", 8000)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.ones(100 * 50, np.float32)), 50)
    rows = pa.table({"vector": vectors.cast(pa.list_(pa.float32()))})
    write_part_file(str(tmp_path), "part-00000", rows)
    metadata = pq.read_metadata(tmp_path / "part-00000.parquet")
    sizes = [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)]
    assert sum(sizes) == 100
    assert max(sizes) <= 8000 // (50 * 4)


def test_vectors_beyond_the_offsets_of_a_list_are_several_chunks(tmp_path, monkeypatch):
    assert arrays.MOST_VALUES == 2**31 - 1
    monkeypatch.setattr(arrays, "MOST_VALUES", 7)
    vectors = np.arange(15, dtype=np.float32).reshape(5, 3)
    rows = vector_rows(np.arange(5), vectors)
    assert [len(chunk) for chunk in rows["vector"].chunks] == [2, 2, 1]
    write_part_file(str(tmp_path), "part-00000", rows)
    table = VectorTable(ItemTable.uncommitted(str(tmp_path), FEATURES), 3)
    items, found = table.read(1, 5)
    assert items.tolist() == [1, 2, 3, 4]
    np.testing.assert_array_equal(found, vectors[1:])
