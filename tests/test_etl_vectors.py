"""The user's files of vectors: formats, errors, and the items that rows belong to."""

import gzip

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from vectors_by_item import vectors_by_item

from etl.features import vector_files
from etl.features.vector_blocks import VectorBatch
from etl.features.vector_files import BinaryVectors, NpyVectors, ParquetVectors
from etl.features.vectors import locate_vectors, open_vectors
from mdsrec.config import FeatureConfig
from mdsrec.errors import InputError

CATALOGUE = {"B000000000": 0, "B000000001": 1, "B000000002": 2, "B000000003": 3}
finite = st.floats(width=32, allow_nan=False, allow_infinity=False)


def labeled_vectors(source):
    """Return (label, vector) of every row of a source, in order."""
    return [
        (label, batch.values[start:stop].tolist())
        for block in range(len(source))
        for batch in source.batches(block)
        for label, start, stop in zip(
            batch.labels.to_pylist(), batch.offsets[:-1], batch.offsets[1:], strict=True
        )
    ]


def record(asin, vector):
    """Return the bytes of one record, built without the reader's dtype."""
    return asin.encode() + b"".join(np.float32(x).astype("<f4").tobytes() for x in vector)


def wide_vector(first):
    """Return 4096 numbers from `first` on."""
    return [float(first + n) for n in range(4096)]


@given(st.lists(st.lists(finite, max_size=3), max_size=5))
def test_flags_of_a_batch_are_counted_per_vector(vectors):
    lengths = [len(vector) for vector in vectors]
    values = np.array([x for vector in vectors for x in vector], np.float32)
    batch = VectorBatch(pa.nulls(len(vectors)), np.cumsum([0, *lengths]), values)
    expected = [sum(x > 0 for x in vector) for vector in vectors]
    assert batch.count(values > 0).tolist() == expected


@pytest.mark.parametrize("kind", [pa.list_, pa.large_list, lambda t: pa.list_(t, 2)])
@pytest.mark.parametrize("number", [pa.float32(), pa.float64(), pa.float16()])
def test_parquet_is_read_by_row_groups_with_any_type_of_list(tmp_path, monkeypatch, kind, number):
    monkeypatch.setattr(vector_files, "PARQUET_BATCH", 2)
    rows = [[0.5, 1.0], [2.0, 3.0], [4.0, 5.0], [6.0, 7.0]]
    columns = {"asin": list("abcd"), "other": range(4), "vector": pa.array(rows, kind(number))}
    pq.write_table(pa.table(columns), tmp_path / "v.parquet", row_group_size=3)
    source = ParquetVectors.open(str(tmp_path))
    assert len(source) == 2
    assert labeled_vectors(source) == list(zip([b"a", b"b", b"c", b"d"], rows, strict=True))


@pytest.mark.parametrize("dtype", ["<f4", ">f8", "<f2"])
def test_npy_is_read_by_ranges_of_rows(tmp_path, monkeypatch, dtype):
    monkeypatch.setattr(vector_files, "block_size", lambda width: 2)
    matrix = np.arange(15).reshape(5, 3).astype(dtype)
    np.save(tmp_path / "v.npy", matrix)
    source = NpyVectors.open(str(tmp_path / "v.npy"))
    assert len(source) == 3
    assert [vector for _, vector in labeled_vectors(source)] == matrix.tolist()


@pytest.mark.parametrize("packed", [False, True])
def test_the_publishers_records_are_ten_bytes_of_asin_and_4096_floats(
    tmp_path, monkeypatch, packed
):
    monkeypatch.setattr(vector_files, "RECORDS_PER_BLOCK", 2)
    records = [(f"B00000000{n}", wide_vector(n)) for n in range(5)]
    content = b"".join(record(*r) for r in records)
    path = tmp_path / ("v.b.gz" if packed else "v.b")
    path.write_bytes(gzip.compress(content) if packed else content)
    source = open_vectors(str(path))
    assert len(source) == (1 if packed else 3)
    assert labeled_vectors(source) == [(asin.encode(), vector) for asin, vector in records]


@pytest.mark.parametrize("cut", [1, 10, 16393])
@pytest.mark.parametrize("packed", [False, True])
def test_a_binary_file_that_ends_within_a_record_is_refused_with_its_size(tmp_path, cut, packed):
    content = (record("B000000000", wide_vector(0)) * 2)[:-cut]
    path = tmp_path / ("v.b.gz" if packed else "v.b")
    path.write_bytes(gzip.compress(content) if packed else content)
    words = rf"v\.b.*: {2 * 16394 - cut} bytes are not a multiple of a record's 16394"
    with pytest.raises(InputError, match=words):
        labeled_vectors(BinaryVectors.open(str(path)))


def test_another_binary_file_is_refused_with_the_invalid_asin(tmp_path):
    (tmp_path / "v.b").write_bytes(bytes([255]) * 16394)
    with pytest.raises(InputError, match=r"v\.b: b'\\xff.* is not an asin"):
        labeled_vectors(BinaryVectors.open(str(tmp_path / "v.b")))
    packed = gzip.compress(record("B000000000", np.random.default_rng(0).normal(size=4096)))
    (tmp_path / "v.b.gz").write_bytes(packed[:-100])
    with pytest.raises(InputError, match=r"v\.b\.gz: truncated or corrupt gzip"):
        labeled_vectors(BinaryVectors.open(str(tmp_path / "v.b.gz")))


@pytest.mark.parametrize(
    ("matrix", "words"),
    [
        (np.zeros(3), r"float64 of shape \(3,\), expected a matrix of floats"),
        (np.zeros((2, 2), int), r"int64 of shape \(2, 2\), expected a matrix of floats"),
        (np.zeros((2, 3)).T, "stored in column order"),
        (np.zeros((3, 0)), "the vectors are empty"),
    ],
)
def test_an_array_of_another_shape_or_type_is_refused(tmp_path, matrix, words):
    np.save(tmp_path / "v.npy", matrix)
    with pytest.raises(InputError, match=words):
        NpyVectors.open(str(tmp_path / "v.npy"))


def test_a_file_without_a_complete_array_is_refused(tmp_path):
    path = tmp_path / "v.npy"
    np.save(path, np.eye(3))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(
        InputError, match=r"199 bytes are not the size of float64 of shape \(3, 3\)"
    ):
        NpyVectors.open(str(path))
    path.write_text("no array, but long enough to hold a header")
    with pytest.raises(InputError, match=r"v\.npy: not a \.npy array"):
        NpyVectors.open(str(path))


def write_as(kind, folder, vectors):
    """Write the vectors by asin as a file of one kind, and return its configuration."""
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
def test_vectors_belong_to_the_items_of_their_asins_for_any_partitioning(spark, tmp_path, kind):
    vectors = {asin: wide_vector(item) for asin, item in reversed(CATALOGUE.items())}
    del vectors["B000000001"]
    vectors |= {"B00UNKNOWN": wide_vector(9), "B000000003": [0.0] * 4096}
    config = write_as(kind, tmp_path, vectors)
    catalogue = spark.createDataFrame(list(CATALOGUE.items()), "asin string, item int")
    for tasks in (1, 3):
        located = locate_vectors(spark, config, catalogue, tasks)
        assert (located.width, located.counters) == (4096, {"unknown_asins": 1, "zero_vectors": 1})
        found = vectors_by_item(located, tmp_path / f"table-{tasks}", tasks)
        lists = {item: vector.tolist() for item, vector in found.items()}
        assert lists == {0: wide_vector(0), 2: wide_vector(2)}


@pytest.mark.spark
def test_a_file_of_asins_that_does_not_fit_the_matrix_is_refused(spark, tmp_path):
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
            locate_vectors(spark, config, catalogue, 2)
