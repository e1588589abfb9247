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
from etl.features.vector_columns import vector_lists
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


LISTS = [pa.list_, pa.large_list, lambda t: pa.list_(t, 2), pa.list_view, pa.large_list_view]
FLOATS = [pa.float32(), pa.float64(), pa.float16(), pa.decimal128(5, 2)]
INTEGERS = [pa.int8(), pa.uint64()]


@pytest.mark.parametrize("kind", LISTS)
@pytest.mark.parametrize("number", [*FLOATS, *INTEGERS])
def test_parquet_is_read_by_row_groups_with_any_type_of_list(tmp_path, monkeypatch, kind, number):
    monkeypatch.setattr(vector_files, "PARQUET_BATCH", 2)
    first = 1.0 if number in INTEGERS else 0.5
    rows = [[first, 1.0], [2.0, 3.0], [4.0, 5.0], [6.0, 7.0]]
    numbers = pa.array(rows).cast(pa.list_(number)).to_pylist()
    columns = {
        "item_id": list("abcd"),
        "other": range(4),
        "vector": pa.array(numbers, kind(number)),
    }
    pq.write_table(pa.table(columns), tmp_path / "v.parquet", row_group_size=3)
    source = ParquetVectors.open(str(tmp_path))
    assert len(source) == 2
    assert labeled_vectors(source) == list(zip([b"a", b"b", b"c", b"d"], rows, strict=True))


@pytest.mark.parametrize("kind", LISTS)
def test_of_a_column_with_a_null_every_other_vector_is_read(kind):
    column = pa.array([[9, 9], [1, 2], None, [3, 4]], kind(pa.int64())).slice(1)
    assert vector_lists(column).to_pylist() == [[1, 2], [], [3, 4]]


@pytest.mark.parametrize("kind", [pa.ListViewArray, pa.LargeListViewArray])
def test_list_views_in_any_order_that_overlap_are_read(kind):
    integers = pa.int32() if kind is pa.ListViewArray else pa.int64()
    starts, sizes = pa.array([2, 0, 1], integers), pa.array([2, 2, 1], integers)
    column = kind.from_arrays(starts, sizes, pa.array([1.0, 2.0, 3.0, 4.0]))
    assert vector_lists(column).to_pylist() == [[3, 4], [1, 2], [2]]


@pytest.mark.parametrize(
    "ids",
    [
        pa.array(["B1", "é"], pa.large_string()),
        pa.array(["B1", "é"], pa.string_view()),
        pa.array(["B1", "é"]).dictionary_encode(),
        pa.array(["B1", "é"], pa.large_string()).dictionary_encode(),
        pa.array(["B1", "é"]).cast(pa.binary()),
        pa.array(["B1", "é"]).cast(pa.large_binary()).dictionary_encode(),
        pa.array(["B1", "é"]).cast(pa.binary()).cast(pa.binary_view()),
    ],
    ids=lambda ids: str(ids.type),
)
def test_ids_of_any_type_of_text_are_read(tmp_path, ids):
    assert labels_in_parquet(tmp_path, ids) == [b"B1", "é".encode()]


def test_integer_ids_are_read_as_their_decimal_digits(tmp_path):
    for integers in (pa.array([7, -30]), pa.array([7, -30], pa.int16()).dictionary_encode()):
        assert labels_in_parquet(tmp_path, integers) == [b"7", b"-30"]


def test_ids_of_a_fixed_size_are_read_without_their_padding(tmp_path):
    for padded in ([b"B1\0", b"B23"], [b"B1 ", b"B23"]):
        assert labels_in_parquet(tmp_path, pa.array(padded, pa.binary(3))) == [b"B1", b"B23"]


def test_an_id_that_is_not_utf8_is_refused_with_its_bytes(tmp_path):
    with pytest.raises(InputError, match=r"v\.parquet: column item_id has b'B\\xff', which is"):
        labels_in_parquet(tmp_path, pa.array([None, b"B1", b"B\xff"]))


def labels_in_parquet(folder, ids):
    vectors = pa.array([[1.0]] * len(ids))
    pq.write_table(pa.table({"item_id": ids, "vector": vectors}), folder / "v.parquet")
    source = ParquetVectors.open(str(folder / "v.parquet"))
    return [label for label, _ in labeled_vectors(source)]


def test_a_file_may_name_its_ids_asin_but_not_both(tmp_path):
    ids, vectors = pa.array(["B1"]), pa.array([[1.0]])
    pq.write_table(pa.table({"asin": ids, "vector": vectors}), tmp_path / "v.parquet")
    assert labeled_vectors(ParquetVectors.open(str(tmp_path))) == [(b"B1", [1.0])]
    both = {"asin": ids, "item_id": ids, "vector": vectors}
    pq.write_table(pa.table(both), tmp_path / "v.parquet")
    with pytest.raises(InputError, match="both columns item_id and asin name items: remove one"):
        ParquetVectors.open(str(tmp_path))


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        (
            {"item_id": pa.array([1.5])},
            "column item_id is double, expected text, UTF-8 bytes or int",
        ),
        (
            {"item_id": pa.array([1.5]).dictionary_encode()},
            "column item_id is d.*, expected text",
        ),
        ({"vector": pa.array(["[1, 2]"])}, "column vector is string, expected lists of numbers"),
        ({"vector": pa.array([[[1.0]]])}, "column vector is list<.*, expected lists of numbers"),
        ({"vector": pa.array([["1"]])}, "column vector is list<.*, expected lists of numbers"),
        ({"vector": pa.array([1.0])}, "column vector is double, expected lists of numbers"),
    ],
)
def test_a_column_of_another_type_is_refused_with_what_is_wanted(tmp_path, columns, words):
    usable = {"item_id": pa.array(["B0"]), "vector": pa.array([[1.0]])}
    pq.write_table(pa.table(usable | columns), tmp_path / "v.parquet")
    with pytest.raises(InputError, match=r"v\.parquet: " + words):
        ParquetVectors.open(str(tmp_path))


@pytest.mark.parametrize("dtype", ["<f4", ">f8", "<f2", "<i8", "u1"])
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
        (np.zeros(3), r"float64 of shape \(3,\), expected a matrix of numbers, one row per item"),
        (np.zeros((2, 2), complex), r"complex128 of shape \(2, 2\), expected a matrix of numbers"),
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
    """Write the vectors by item id as a file of one kind, and return its configuration."""
    path = str(folder / f"v.{kind}")
    if kind == "b":
        (folder / "v.b").write_bytes(b"".join(record(*row) for row in vectors.items()))
        return FeatureConfig(vectors=path)
    if kind == "parquet":
        columns = {"item_id": list(vectors), "vector": list(vectors.values())}
        pq.write_table(pa.table(columns), path, row_group_size=2)
        return FeatureConfig(vectors=path)
    np.save(path, np.array(list(vectors.values())))
    (folder / "ids.txt").write_text("".join(f" {item_id}\t\r\n" for item_id in vectors))
    return FeatureConfig(vectors=path, ids=str(folder / "ids.txt"))


@pytest.mark.spark
@pytest.mark.parametrize(
    "kind", ["parquet", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("npy", "b"))]
)
def test_vectors_belong_to_the_items_of_their_ids_for_any_partitioning(spark, tmp_path, kind):
    vectors = {item_id: wide_vector(item) for item_id, item in reversed(CATALOGUE.items())}
    del vectors["B000000001"]
    vectors |= {"B00UNKNOWN": wide_vector(9), "B000000003": [0.0] * 4096}
    config = write_as(kind, tmp_path, vectors)
    catalogue = spark.createDataFrame(list(CATALOGUE.items()), "item_id string, item int")
    for tasks in (1, 3):
        located = locate_vectors(spark, config, catalogue, tasks)
        assert (located.width, located.counters) == (4096, {"unknown_ids": 1, "zero_vectors": 1})
        found = vectors_by_item(located, tmp_path / f"table-{tasks}", tasks)
        lists = {item: vector.tolist() for item, vector in found.items()}
        assert lists == {0: wide_vector(0), 2: wide_vector(2)}


@pytest.mark.spark
@pytest.mark.slow
def test_a_vector_that_many_items_share_is_a_counted_miss_for_any_partitioning(spark, tmp_path):
    rows = {"B0": [1, 2], "B1": [3, 4], "B2": [1, 2], "B3": [3, 4], "B4": [1, 2], "B5": [5, 6]}
    unknown = {"U0": [3, 4], "U1": [3, 4]}  # of no item, so they do not count
    config = write_as("parquet", tmp_path, rows | unknown)  # in blocks of two
    catalogue = spark.createDataFrame([(f"B{n}", n) for n in range(6)], "item_id string, item int")
    for most, kept in ((2, [1, 3, 5]), (3, [0, 1, 2, 3, 4, 5])):
        for tasks in (1, 3):
            settings = config.model_copy(update={"max_shared": most})
            located = locate_vectors(spark, settings, catalogue, tasks)
            assert sorted(row.item for row in located.locations.collect()) == kept
            missed = {"missed: shared by more than 2 items": 3} if most == 2 else {}
            assert located.counters == {"unknown_ids": 2, "zero_vectors": 0, **missed}


@pytest.mark.spark
def test_a_file_of_ids_that_does_not_fit_the_matrix_is_refused(spark, tmp_path):
    catalogue = spark.createDataFrame([("B0", 0)], "item_id string, item int")
    np.save(tmp_path / "v.npy", np.eye(2))
    ids = tmp_path / "ids.txt"
    config = FeatureConfig(vectors=str(tmp_path / "v.npy"), ids=str(ids))
    for content, words in [
        (None, r"ids\.txt: no such file"),
        (b"B0\nB1\nB2\n", r"v\.npy: 2 rows, but .*ids\.txt has 3 ids"),
        (b"B0\n\xff\n", r"ids\.txt: line 2 is not UTF-8 text"),
    ]:
        if content is not None:
            ids.write_bytes(content)
        with pytest.raises(InputError, match=words):
            locate_vectors(spark, config, catalogue, 2)
