"""Files of vectors that a user brings: which rows become whose vectors."""

import gzip

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from placed import written

from etl.features import vector_files
from etl.features.vector_blocks import Piece
from etl.features.vector_files import BinaryVectors, NpyVectors, ParquetVectors
from etl.features.vectors import brought, opened
from mdsrec.config import FeatureConfig
from mdsrec.errors import InputError

CATALOGUE = {"B000000000": 0, "B000000001": 1, "B000000002": 2, "B000000003": 3}
finite = st.floats(width=32, allow_nan=False, allow_infinity=False)


def all_of(source):
    """(label, vector) of every row of a source, in order."""
    return [
        (label, piece.values[start:stop].tolist())
        for block in range(len(source))
        for piece in source.pieces(block)
        for label, start, stop in zip(
            piece.labels.to_pylist(), piece.offsets[:-1], piece.offsets[1:], strict=True
        )
    ]


def record(asin, vector):
    """As the publisher writes it, spelled with another tool than the reader's."""
    return asin.encode() + b"".join(np.float32(x).astype("<f4").tobytes() for x in vector)


def wide(first):
    """4096 numbers from `first` on."""
    return [float(first + n) for n in range(4096)]


@given(st.lists(st.lists(finite, max_size=3), max_size=5))
def test_counts_of_a_piece_are_those_of_each_of_its_vectors(vectors):
    lengths = [len(vector) for vector in vectors]
    values = np.array([x for vector in vectors for x in vector], np.float32)
    piece = Piece(pa.nulls(len(vectors)), np.cumsum([0, *lengths]), values)
    expected = [sum(x > 0 for x in vector) for vector in vectors]
    assert piece.count(values > 0).tolist() == expected


@pytest.mark.parametrize("kind", [pa.list_, pa.large_list, lambda t: pa.list_(t, 2)])
@pytest.mark.parametrize("number", [pa.float32(), pa.float64(), pa.float16()])
def test_parquet_is_read_by_row_groups_in_any_type_of_list(tmp_path, monkeypatch, kind, number):
    monkeypatch.setattr(vector_files, "BATCH", 2)
    rows = [[0.5, 1.0], [2.0, 3.0], [4.0, 5.0], [6.0, 7.0]]
    columns = {"asin": list("abcd"), "other": range(4), "vector": pa.array(rows, kind(number))}
    pq.write_table(pa.table(columns), tmp_path / "v.parquet", row_group_size=3)
    source = ParquetVectors.of(str(tmp_path))
    assert len(source) == 2
    assert all_of(source) == list(zip([b"a", b"b", b"c", b"d"], rows, strict=True))


@pytest.mark.parametrize("dtype", ["<f4", ">f8", "<f2"])
def test_npy_is_read_by_ranges_of_rows(tmp_path, monkeypatch, dtype):
    monkeypatch.setattr(vector_files, "block_size", lambda width: 2)
    matrix = np.arange(15).reshape(5, 3).astype(dtype)
    np.save(tmp_path / "v.npy", matrix)
    source = NpyVectors.of(str(tmp_path / "v.npy"))
    assert len(source) == 3
    assert [vector for _, vector in all_of(source)] == matrix.tolist()


@pytest.mark.parametrize("packed", [False, True])
def test_the_publishers_records_are_ten_bytes_of_asin_and_4096_floats(
    tmp_path, monkeypatch, packed
):
    monkeypatch.setattr(vector_files, "RECORDS", 2)
    records = [(f"B00000000{n}", wide(n)) for n in range(5)]
    content = b"".join(record(*r) for r in records)
    path = tmp_path / ("v.b.gz" if packed else "v.b")
    path.write_bytes(gzip.compress(content) if packed else content)
    source = opened(str(path))
    assert len(source) == (1 if packed else 3)
    assert all_of(source) == [(asin.encode(), vector) for asin, vector in records]


@pytest.mark.parametrize("cut", [1, 10, 16393])
@pytest.mark.parametrize("packed", [False, True])
def test_a_binary_file_that_ends_within_a_record_names_its_size(tmp_path, cut, packed):
    content = (record("B000000000", wide(0)) * 2)[:-cut]
    path = tmp_path / ("v.b.gz" if packed else "v.b")
    path.write_bytes(gzip.compress(content) if packed else content)
    words = rf"v\.b.*: {2 * 16394 - cut} bytes are no multiple of a record's 16394"
    with pytest.raises(InputError, match=words):
        all_of(BinaryVectors.of(str(path)))


def test_a_binary_file_of_something_else_is_named_by_what_stands_for_an_asin(tmp_path):
    (tmp_path / "v.b").write_bytes(bytes([255]) * 16394)
    with pytest.raises(InputError, match=r"v\.b: b'\\xff.* where an asin should be"):
        all_of(BinaryVectors.of(str(tmp_path / "v.b")))
    packed = gzip.compress(record("B000000000", np.random.default_rng(0).normal(size=4096)))
    (tmp_path / "v.b.gz").write_bytes(packed[:-100])
    with pytest.raises(InputError, match=r"v\.b\.gz: truncated or corrupt gzip"):
        all_of(BinaryVectors.of(str(tmp_path / "v.b.gz")))


@pytest.mark.parametrize(
    ("matrix", "words"),
    [
        (np.zeros(3), r"float64 of shape \(3,\), expected rows of floats"),
        (np.zeros((2, 2), int), r"int64 of shape \(2, 2\), expected rows of floats"),
        (np.zeros((2, 3)).T, "stored by column"),
        (np.zeros((3, 0)), "the vectors are empty"),
    ],
)
def test_an_array_of_another_kind_is_named(tmp_path, matrix, words):
    np.save(tmp_path / "v.npy", matrix)
    with pytest.raises(InputError, match=words):
        NpyVectors.of(str(tmp_path / "v.npy"))


def test_a_file_that_is_no_whole_array_is_named(tmp_path):
    path = tmp_path / "v.npy"
    np.save(path, np.eye(3))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"199 bytes do not hold float64 of shape \(3, 3\)"):
        NpyVectors.of(str(path))
    path.write_text("no array, but long enough to hold a header")
    with pytest.raises(InputError, match=r"v\.npy: not a \.npy array"):
        NpyVectors.of(str(path))


def write_as(kind, folder, vectors):
    """A configuration of the vectors by asin as a file of one kind."""
    path = str(folder / f"v.{kind}")
    if kind == "b":
        (folder / "v.b").write_bytes(b"".join(record(*row) for row in vectors.items()))
        return FeatureConfig(vectors=path)
    if kind == "parquet":
        columns = {"asin": list(vectors), "vector": list(vectors.values())}
        pq.write_table(pa.table(columns), path, row_group_size=2)
        return FeatureConfig(vectors=path)
    np.save(path, np.array(list(vectors.values())))
    (folder / "asins.txt").write_text("".join(f" {asin}\t\r\n" for asin in vectors))
    return FeatureConfig(vectors=path, asins=str(folder / "asins.txt"))


@pytest.mark.spark
@pytest.mark.parametrize("kind", ["parquet", "npy", "b"])
def test_vectors_go_to_the_items_of_their_asins_for_any_partitioning(spark, tmp_path, kind):
    vectors = {asin: wide(item) for asin, item in reversed(CATALOGUE.items())}
    del vectors["B000000001"]
    vectors |= {"B00UNKNOWN": wide(9), "B000000003": [0.0] * 4096}
    config = write_as(kind, tmp_path, vectors)
    catalogue = spark.createDataFrame(list(CATALOGUE.items()), "asin string, item int")
    for tasks in (1, 3):
        placed = brought(spark, config, catalogue, tasks)
        assert (placed.width, placed.counters) == (4096, {"unknown_asins": 1, "zero_vectors": 1})
        found = written(placed, tmp_path / f"table-{tasks}", tasks)
        assert {item: vector.tolist() for item, vector in found.items()} == {0: wide(0), 2: wide(2)}


@pytest.mark.spark
def test_lines_of_asins_that_do_not_fit_are_named(spark, tmp_path):
    catalogue = spark.createDataFrame([("B0", 0)], "asin string, item int")
    np.save(tmp_path / "v.npy", np.eye(2))
    asins = tmp_path / "asins.txt"
    config = FeatureConfig(vectors=str(tmp_path / "v.npy"), asins=str(asins))
    for content, words in [
        (None, r"asins\.txt: no such file"),
        (b"B0\nB1\nB2\n", r"v\.npy: 2 rows, but .*asins\.txt has 3 asins"),
        (b"B0\n\xff\n", r"asins\.txt: line 2 is not UTF-8 text"),
    ]:
        if content is not None:
            asins.write_bytes(content)
        with pytest.raises(InputError, match=words):
            brought(spark, config, catalogue, 2)
