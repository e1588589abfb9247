"""Mistakes in the input: the error is one line with the file, what was found and what to do."""

import bz2
import gzip
import json
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from vectors_by_item import vectors_by_item

from etl.catalogue import amazon, raw
from etl.catalogue.raw import RawFile, numbered_lines, raw_files, raw_lines, shares_of
from etl.features.encoders import model_location
from mdsrec.config import FeatureConfig
from mdsrec.config.loading import experiment_from
from mdsrec.errors import InputError

REVIEWS = [
    {"reviewerID": f"A{user}", "asin": f"B{item}", "unixReviewTime": 10 * user + item}
    for user in range(4)
    for item in range(4)
]


def zstd(content):
    return pa.compress(content, "zstd", asbytes=True)


def one_line(error):
    message = str(error.value)
    assert "\n" not in message
    return message


def write_lines(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def experiment(tmp_path, **sections):
    """Return an experiment on REVIEWS, with vectors for three of the four items."""
    reviews = write_lines(tmp_path / "reviews.json", REVIEWS)
    vectors = write_vectors(tmp_path / "v.parquet", ["B0", "B1", "B2"], np.eye(3))
    content = {
        "name": "x",
        "root": str(tmp_path / "root"),
        "input": {"edition": "2018", "reviews": [reviews]},
        "sequences": {"k_core": 1},
        "features": {"image": {"vectors": vectors}},
        "model": {"num_neighbors": 2, "num_centers": 2},
    }
    return experiment_from(content | sections, "test")


def write_vectors(path, ids, rows):
    vectors = pa.array([list(map(float, row)) for row in rows], pa.list_(pa.float32()))
    pq.write_table(pa.table({"item_id": pa.array(ids, pa.string()), "vector": vectors}), path)
    return str(path)


def run_etl(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "etl", *map(str, arguments)], capture_output=True, text=True
    )


def test_lines_are_counted_in_plain_and_gzip_files_whatever_their_name(tmp_path):
    plain, packed = tmp_path / "a.json", tmp_path / "b.json"
    plain.write_bytes(b"x\r\n\ny")
    packed.write_bytes(gzip.compress(b"x\n\ny\n"))
    expected = [(1, b"x"), (2, b""), (3, b"y")]
    assert list(numbered_lines(str(plain))) == list(numbered_lines(str(packed))) == expected


def test_a_folder_means_its_raw_files_in_order_of_name(tmp_path):
    for name in ("b.json.gz", "a.jsonl", "readme.txt", "c.jsonl.gz"):
        (tmp_path / name).write_text("{}\n")
    names = [file.uri.rsplit("/", 1)[1] for file in raw_files([str(tmp_path)])]
    assert names == ["a.jsonl", "b.json.gz", "c.jsonl.gz"]


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, zstd])
@pytest.mark.parametrize("name", ["a.json", "a.json.gz", "a.JSON.bz2", "a.jsonl.zst"])
def test_lines_are_read_from_every_compression_whatever_the_name(tmp_path, pack, name):
    (tmp_path / name).write_bytes(pack(b"x\n") + pack(b"y\n"))  # as `cat a.gz b.gz`
    [file] = raw_files([str(tmp_path)])
    assert list(numbered_lines(file.uri)) == [(1, b"x"), (2, b"y")]


@pytest.mark.parametrize(("pack", "kind"), [(bz2.compress, "bzip2"), (zstd, "zstd")])
def test_a_compressed_file_that_is_cut_off_is_named_with_its_kind(tmp_path, pack, kind):
    lines = np.random.default_rng(0).integers(10**9, size=20_000)
    packed = pack("".join(f"{n}\n" for n in lines).encode())
    (tmp_path / "a.json").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(InputError, match=rf"a\.json: truncated or corrupt {kind} after line \d+"):
        list(numbered_lines(str(tmp_path / "a.json")))


def test_what_a_folder_holds_and_is_not_read_is_said_once(tmp_path, caplog):
    for name in ("A.JSON", "b.json.bz2", "c.json.part", "._a.json", "_SUCCESS", ".c.json.crc"):
        (tmp_path / name).write_text("{}\n")
    (tmp_path / "more").mkdir()
    (tmp_path / "gone.json").symlink_to("nowhere.json")
    found = [file.uri.rsplit("/", 1)[1] for file in raw_files([str(tmp_path)])]
    assert found == ["A.JSON", "b.json.bz2"]
    [record] = caplog.records
    assert record.getMessage() == (
        f"{tmp_path}: not read: ._a.json (hidden), c.json.part (another suffix), more/ (a folder), "
        "gone.json (a broken link)"
    )


def test_a_folder_that_is_read_whole_says_nothing(tmp_path, caplog):
    for name in ("a.json", "_SUCCESS", ".a.json.crc"):
        (tmp_path / name).write_text("{}\n")
    assert len(raw_files([str(tmp_path)])) == 1 and not caplog.records


def test_a_missing_file_and_a_folder_without_raw_files_are_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.json: no such file or folder"):
        raw_files([str(tmp_path / "nowhere.json")])
    with pytest.raises(InputError, match=r"no file in this folder ends in \.json or"):
        raw_files([str(tmp_path)])


@pytest.mark.parametrize(
    ("name", "gigabytes", "num_files", "shares"),
    [
        ("a.json", 1, 1, 4),  # one for each core
        ("a.json", 1, 3, 2),
        ("a.json", 4, 9, 1),
        ("a.json", 13, 9, 4),  # of 4 GiB at most
        ("a.json.gz", 2, 9, 3),  # 10 GiB of lines
        ("a.json.gz", 20, 9, 8),  # each reader decompresses all of it
    ],
)
def test_a_large_file_has_several_readers_however_many_files_there_are(
    name, gigabytes, num_files, shares
):
    assert shares_of(RawFile(name, gigabytes << 30, None), num_files, num_cores=4) == shares


@pytest.mark.parametrize("content", [b"", gzip.compress(b"", mtime=0)])
def test_an_empty_file_is_an_error(tmp_path, content):
    (tmp_path / "e.json.gz").write_bytes(content)
    with pytest.raises(InputError, match=r"e\.json\.gz: the file is empty"):
        list(numbered_lines(str(tmp_path / "e.json.gz")))


def broken_gzip(path, keep, flip=False):
    """Write a gzip of 20,000 lines, truncated to the share `keep` or with wrong bytes there."""
    lines = np.random.default_rng(0).integers(10**9, size=20_000)
    packed = bytearray(gzip.compress("".join(f"{n}\n" for n in lines).encode()))
    middle = int(len(packed) * keep)
    if flip:
        packed[middle : middle + 50] = b"\xff" * 50
        path.write_bytes(packed)
    else:
        path.write_bytes(packed[:middle])
    return str(path)


@pytest.mark.parametrize("flip", [False, True])
def test_a_truncated_or_corrupt_gzip_is_an_error_with_the_file_and_the_last_line_read(
    tmp_path, flip
):
    uri = broken_gzip(tmp_path / "t.json.gz", 0.5, flip)
    with pytest.raises(InputError, match=r"t\.json\.gz: truncated or corrupt gzip after line \d+"):
        list(numbered_lines(uri))


def test_an_encoder_is_a_folder_or_a_name_and_a_missing_folder_is_an_error(tmp_path):
    assert model_location(str(tmp_path)) == str(tmp_path)
    assert model_location("someone/some-model") == "someone/some-model"
    with pytest.raises(InputError, match="no such folder"):
        model_location("./nowhere")


def test_the_command_prints_its_help_and_every_mistake_as_one_line(tmp_path):
    done = run_etl("--help")
    assert done.returncode == 0
    config = tmp_path / "x.toml"
    config.write_text(
        f'name = "x"\nroot = "{tmp_path}/root"\n'
        '[input]\nedition = "2018"\nreviews = ["nowhere.json"]\n'
    )
    for override, words in [
        ("seed=0", "nowhere.json: no such file"),
        ("sequences.kcore=3", "nearest key is k_core"),
        (f"root={config}/below", "cannot be written"),
    ]:
        done = run_etl(config, override)
        assert done.returncode == 2, done.stderr
        assert words in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.spark
def test_a_corrupt_file_read_in_a_worker_is_one_line(spark, tmp_path):
    from etl.run import build_tables

    broken = broken_gzip(tmp_path / "t.json.gz", 0.5)
    source = {"edition": "2018", "reviews": [broken]}
    with pytest.raises(InputError) as error:
        build_tables(experiment(tmp_path, input=source), spark)
    assert "t.json.gz: truncated or corrupt gzip after line" in one_line(error)


@pytest.mark.slow
@pytest.mark.spark
def test_reviews_without_metadata_give_items_without_title_and_text(spark, tmp_path):
    from etl.run import build_tables

    without_metadata = experiment(tmp_path, model={"modalities": []}, sequences={"k_core": 4})
    manifests = build_tables(without_metadata, spark)
    assert list(manifests)[:3] == ["interactions", "metadata", "rejects"]
    assert [manifests[name].rows for name in ("interactions", "metadata", "rejects")] == [16, 0, 0]
    counters = manifests["items"].counters
    assert (counters["items"], counters["items_without_metadata"]) == (4, 4)
    assert (counters["items_with_title"], counters["items_with_text"]) == (0, 0)
    # every user has B0 and B1 in training: one pair per user, in both directions
    assert manifests["cooccurrence"].rows == 2
    assert manifests["cooccurrence"].counters["pairs"] == 4


@pytest.mark.spark
def test_reviews_of_another_edition_are_an_error_not_an_empty_table(spark, tmp_path):
    from etl.run import build_tables

    reviews = write_lines(tmp_path / "r.json", REVIEWS)
    source = {"edition": "2023", "reviews": [reviews]}
    with pytest.raises(InputError) as error:
        build_tables(experiment(tmp_path, input=source), spark)
    assert "no usable review in 16 lines (missing user_id)" in one_line(error)


@pytest.mark.spark
@pytest.mark.parametrize(
    ("ids", "rows", "words"),
    [
        (["B0", "B1", "B2"], [[1, 2], [1, 2], [1, 2, 3]], "item B2 has width 3, expected 2"),
        (["B0", "B1"], [[1, 2], [np.nan, 2]], "item B1 holds a NaN"),
        (["B0", "B1"], [[1, 2], [1, np.inf]], "item B1 holds a NaN, null or infinity"),
        (["B0", "B0"], [[1, 2], [3, 4]], "item B0 has 2 vectors"),
        (["Z", "Y"], [[1, 2], [3, 4]], "none of its 2 ids belongs to an item"),
        ([], [], "no vectors"),
    ],
)
def test_a_wrong_vector_is_an_error_with_its_item(spark, tmp_path, ids, rows, words):
    with pytest.raises(InputError) as error:
        locate(spark, write_vectors(tmp_path / "v.parquet", ids, rows))
    assert words in one_line(error)


def locate(spark, vectors, ids=None):
    from etl.features.vectors import locate_vectors

    catalogue = spark.createDataFrame([("B0", 0), ("B1", 1)], "item_id string, item int")
    return locate_vectors(spark, FeatureConfig(vectors=vectors, ids=ids), catalogue, 2)


@pytest.mark.spark
def test_unusable_files_of_vectors_are_named(spark, tmp_path):
    with pytest.raises(InputError, match="no such file"):
        locate(spark, str(tmp_path / "nowhere.parquet"))
    (tmp_path / "text.parquet").write_text("no Parquet")
    with pytest.raises(InputError, match="not Parquet"):
        locate(spark, str(tmp_path / "text.parquet"))
    pq.write_table(pa.table({"item_id": ["B0"]}), tmp_path / "c.parquet")
    with pytest.raises(InputError, match="no column vector; there is item_id"):
        locate(spark, str(tmp_path / "c.parquet"))
    np.save(tmp_path / "v.npy", np.eye(3, dtype=np.float32))
    (tmp_path / "ids.txt").write_text("B0\nB1\n")
    with pytest.raises(InputError, match=r"3 rows, but .*ids\.txt has 2 ids"):
        locate(spark, str(tmp_path / "v.npy"), str(tmp_path / "ids.txt"))


@pytest.mark.spark
def test_npy_rows_belong_to_the_lines_of_ids_and_zero_vectors_are_dropped(spark, tmp_path):
    np.save(tmp_path / "v.npy", np.array([[9, 9], [0, 0], [1, 2]], dtype=np.float64))
    (tmp_path / "ids.txt").write_text("Z\nB0\nB1\n")
    located = locate(spark, str(tmp_path / "v.npy"), str(tmp_path / "ids.txt"))
    assert {i: v.tolist() for i, v in vectors_by_item(located, tmp_path).items()} == {1: [1.0, 2.0]}
    assert located.counters == {"unknown_ids": 1, "zero_vectors": 1}


@pytest.mark.parametrize("num_shares", [1, 3])
def test_tasks_that_read_the_same_file_keep_each_line_once(tmp_path, monkeypatch, num_shares):
    monkeypatch.setattr(raw, "LINES_PER_RUN", 2)
    monkeypatch.setattr(raw, "BATCH_BYTES", 3)
    path = tmp_path / "x.json"
    path.write_bytes(b"".join(b"%d\n" % number for number in range(1, 12)))
    found = [
        (row["line"], row["raw"])
        for share in range(num_shares)
        for batch in raw._line_batches(0, str(path), share, num_shares)
        for row in batch.to_pylist()
    ]
    assert sorted(found) == [(number, b"%d" % number) for number in range(1, 12)]
    assert found[0][0] == 1 and (num_shares == 1) == (found == sorted(found))


def exchanges(frame):
    """Return the columns of every shuffle in the physical plan of a frame."""
    frame.sparkSession.conf.set("spark.sql.adaptive.enabled", False)
    try:
        plans = [frame._jdf.queryExecution().executedPlan()]
    finally:
        frame.sparkSession.conf.set("spark.sql.adaptive.enabled", True)
    found = []
    while plans:
        plan = plans.pop()
        plans += [plan.children().apply(n) for n in range(plan.children().size())]
        if "Exchange" in plan.nodeName():
            found.append({plan.output().apply(n).name() for n in range(plan.output().size())})
    return found


@pytest.mark.spark
@pytest.mark.parametrize("edition", ["2014", "2018", "2023"])
def test_no_text_of_a_review_goes_through_an_exchange(spark, tmp_path, edition):
    review = {"user_id": "A", "parent_asin": "B", "timestamp": 1, "text": "long", "title": "t"}
    path = write_lines(tmp_path / "r.json", [review])
    parsed = amazon.parse_reviews(raw_lines(spark, raw_files([path])), edition)
    usable = parsed.where("reason is null").drop("reason", "raw", "notes")
    last, *before = exchanges(usable.repartition(3, "line"))  # as the table is written
    assert last == {"file", "line", "user_id", "item_id", "time"}
    assert before == [{"task", "file", "uri", "share", "shares"}]
