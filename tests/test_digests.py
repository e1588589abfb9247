"""A flipped bit of a stored file: the reader raises one line that names it, or reads the same."""

import io
import json
import logging
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from etl.features.vector_cache import CacheFiles, write_cache_file
from evaluation.actors.parts import rows_of_parts, write_part
from evaluation.metrics.rank_parts import rank_parts
from mdsrec import files, parquet_groups, schema, tables
from mdsrec.config.loading import read_content
from mdsrec.digests import blocks
from mdsrec.digests.blocks import CheckedFile, block_digests
from mdsrec.digests.last_line import with_last_line
from mdsrec.errors import InputError
from mdsrec.tables import Recipe
from training.checkpoints.manifest import find_damage, manifest_name
from training.checkpoints.stored_weights import StoredWeights
from training.checkpoints.tensor_file import checked_content, write_checked, write_tensors
from training.checkpoints.weights import parts_named

RECIPE = Recipe({}, {})
CONTENT = {"epochs": [{"loss": 3.25}], "best_epoch": 0, "finished": True}
TENSORS = {"items": torch.arange(5, dtype=torch.int32), "w": torch.ones(5, 3)}


def answers(path: Path, read, step: int = 1) -> set[object]:
    """Flip every `step`-th bit of a file, the last ones included; return what `read` answered.

    An InputError that names the file is answered as its name. The file is left as it was.
    """
    written, found = path.read_bytes(), set()
    num_bits = 8 * len(written)
    for bit in {*range(0, num_bits, step), *range(max(0, num_bits - 64), num_bits)}:
        damaged = bytearray(written)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        parquet_groups._footer.cache_clear()
        try:
            found.add(read())
        except InputError as error:
            assert "\n" not in str(error)
            found.add(path.name if path.name in str(error) else str(error))
    path.write_bytes(written)
    return found


def written_table(uri: str) -> Path:
    """Write a table of one file and return its path."""
    rows = pa.table({"item": range(50), "center": [i % 7 for i in range(50)]}, schema.CENTERS)
    manifest = tables.write_table(uri, rows.to_batches(), schema.CENTERS, RECIPE)
    return Path(uri, manifest.files[0].path)


def read_whole(uri: str) -> int:
    return sum(tables.read_table(uri, schema.CENTERS)["center"].to_pylist())


def read_stream(uri: str) -> int:
    manifest = tables.open_table(uri)
    batches = tables.stream_table(uri, manifest, schema.CENTERS, ["item", "center"])
    return sum(sum(batch["center"].to_pylist()) for batch in batches)


def check_whole(uri: str) -> int:
    manifest = tables.open_table(uri)
    digests = [file.digests for file in manifest.files]
    parquet_groups.check_files(uri, tables.data_files(uri, manifest), digests)
    return 0


@pytest.mark.parametrize("read", [read_whole, read_stream, check_whole])
def test_no_flipped_bit_of_a_table_is_read_as_data(tmp_path, read):
    path = written_table(f"{tmp_path}/centers")
    assert answers(path, lambda: read(f"{tmp_path}/centers"), 17) == {path.name}


def test_no_flipped_bit_of_a_manifest_changes_it(tmp_path):
    written_table(f"{tmp_path}/centers")
    path = tmp_path / "centers" / tables.MANIFEST
    manifest = tables.open_table(f"{tmp_path}/centers")
    read = lambda: repr(tables.open_table(f"{tmp_path}/centers"))  # noqa: E731
    assert answers(path, read, 3) <= {path.name, repr(manifest)}


def test_a_table_with_a_damaged_manifest_is_built_again_and_the_log_says_so(tmp_path, caplog):
    written_table(f"{tmp_path}/centers")
    path = tmp_path / "centers" / tables.MANIFEST
    path.write_text(path.read_text().replace('"rows": 50', '"rows": 51'))
    assert tables.find_table(f"{tmp_path}/centers", RECIPE) is None
    assert f"{path}: damaged (its text is not what was written)" in caplog.text


def test_a_table_without_digests_is_read_and_the_log_says_once_that_it_is_not_checked(
    tmp_path, caplog
):
    uri = f"{tmp_path}/centers"
    written_table(uri)
    path = Path(uri, tables.MANIFEST)
    manifest = files.read_json(str(path))
    del manifest["files"][0]["digests"]
    path.write_text(json.dumps(manifest))
    caplog.set_level(logging.INFO)
    assert read_whole(uri) == read_stream(uri) == sum(i % 7 for i in range(50))
    assert caplog.text.count("without digests") == 1


def test_no_flipped_bit_of_ranks_is_counted(tmp_path):
    row = {"user": 3, "target": 1, "split": "test", "channel": "all"}
    rows = pa.Table.from_pylist([{**row, "better": 2, "ties": 0, "rank": 3.0}] * 3, schema.RANKS)
    uri = f"{tmp_path}/ranks"
    manifest = tables.write_table(uri, rows.to_batches(), schema.RANKS, RECIPE)
    path = Path(uri, manifest.files[0].path)
    assert answers(path, lambda: sum(len(p.users) for p in rank_parts(uri)), 29) == {path.name}


def test_no_flipped_bit_of_a_json_file_changes_what_is_read(tmp_path):
    path = tmp_path / "history.json"
    files.write_json(str(path), CONTENT)
    assert files.read_json(str(path)) == CONTENT
    read = lambda: json.dumps(files.read_json(str(path)))  # noqa: E731
    assert answers(path, read) <= {path.name, json.dumps(CONTENT)}


def test_a_json_file_without_a_digest_is_read_as_it_is(tmp_path):
    path = tmp_path / "history.json"
    path.write_text(json.dumps(CONTENT))
    assert files.read_json(str(path)) == CONTENT
    files.write_json(str(path), {})
    assert files.read_json(str(path)) == {}


def test_the_digest_of_a_json_file_is_its_last_key_and_never_part_of_the_content(tmp_path):
    path = tmp_path / "config.json"
    files.write_json(str(path), CONTENT)
    files.write_json(str(path), json.loads(path.read_text()) | {"more": 1})
    assert list(json.loads(path.read_text())) == [*CONTENT, "more", "digest"]
    assert files.read_json(str(path)) == {**CONTENT, "more": 1}


def test_no_flipped_bit_of_weights_is_loaded(tmp_path):
    path = tmp_path / "best.safetensors"
    with path.open("wb") as stream:
        write_checked(stream, TENSORS, {"dataset": "abc"})
    read = lambda: str(StoredWeights(str(path)).tensors())  # noqa: E731
    assert answers(path, read) == {path.name}
    assert StoredWeights(str(path)).metadata["dataset"] == "abc"


def test_weights_that_are_gathered_one_by_one_give_the_same_file():
    stream, shapes = io.BytesIO(), {name: tuple(t.shape) for name, t in TENSORS.items()}
    write_checked(stream, TENSORS, {"dataset": "abc"})
    gathered = checked_content(shapes, iter(TENSORS.values()), {"dataset": "abc"})
    assert gathered == stream.getvalue()


def test_weights_of_an_older_version_are_read_and_the_log_says_so(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    path = tmp_path / "best.safetensors"
    with path.open("wb") as stream:
        write_tensors(stream, {"w": (5, 3)}, [TENSORS["w"]], {})
    assert torch.equal(StoredWeights(str(path)).tensor("w"), TENSORS["w"])
    assert "without digests" in caplog.text


def test_damaged_weights_can_be_replaced(tmp_path):
    path = tmp_path / "best.safetensors"
    path.write_bytes(bytes(100))
    assert parts_named(str(path)) == []


def test_no_flipped_bit_of_a_checkpoint_passes_its_check(tmp_path):
    record = {"path": "state.json", "bytes": 2, "crc32": block_digests([b"{}"])}
    (tmp_path / "state.json").write_text("{}")
    manifest = tmp_path / manifest_name(0)
    files.write_json(str(manifest), {"world_size": 1, "files": [record]})
    assert find_damage(str(tmp_path)) is None
    for path in (manifest, tmp_path / "state.json"):
        damage = answers(path, lambda: find_damage(str(tmp_path)))
        assert all(path.name in str(found) for found in damage - {None})
        assert damage - {None}
        assert path == manifest or None not in damage


def test_a_damaged_part_of_an_evaluation_is_deleted_and_written_again(tmp_path, caplog):
    content = io.BytesIO()
    pa.parquet.write_table(pa.table({"user": [1, 2, 3]}), content)
    for number in (0, 1, 2):
        write_part(str(tmp_path), number, content.getbuffer())
    damaged, old = sorted(tmp_path.iterdir())[1], tmp_path / "part-00003.parquet"
    old.write_bytes(content.getvalue())
    damaged.write_bytes(content.getvalue()[:-1] + b"2")
    assert rows_of_parts(str(tmp_path)) == {0: 3, 2: 3}
    assert not damaged.exists()
    assert not old.exists()
    assert str(damaged) in caplog.text


def test_no_flipped_bit_of_a_cached_vector_is_used(tmp_path):
    keys = pa.array([bytes([n] * 32) for n in range(3)], pa.binary())
    write_cache_file(str(tmp_path), keys, np.ones((3, 2), np.float32))
    [path] = tmp_path.iterdir()
    cached = CacheFiles(str(tmp_path), (path.name,))
    assert [len(batch) for batch in cached.batches(0)] == [3]
    assert answers(path, lambda: len(list(cached.batches(0))), 7) == {0}


def test_a_flipped_bit_of_best_toml_is_named_and_an_edited_file_without_its_digest_is_read(
    tmp_path,
):
    path, text = tmp_path / "best.toml", 'name = "a"\nroot = "r"\n\n[optim]\nlr = 0.001\n'
    path.write_text(with_last_line(text))
    expected = {"name": "a", "root": "r", "optim": {"lr": 0.001}}
    assert read_content(path) == expected
    assert answers(path, lambda: str(read_content(path))) <= {path.name, str(expected)}
    path.write_text(text.replace("0.001", "0.002"))
    assert read_content(path)["optim"] == {"lr": 0.002}


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 16, 29])
def test_any_range_of_a_checked_file_has_the_bytes_that_were_written(tmp_path, size, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 8)
    content = bytes(range(size))
    path = tmp_path / "data"
    path.write_bytes(b"head" + content)
    digests = block_digests([content[:3], content[3:]])
    assert len(digests) == blocks.digits_for(size) == 8 * -(-size // 8)
    with pa.OSFile(str(path)) as file:
        checked = CheckedFile(file, "data", digests, "restore it", start=4)
        for first in range(size + 1):
            for length in range(size + 3 - first):
                assert checked.read_at(length, first) == content[first : first + length]


def test_only_the_blocks_that_are_read_are_checked_and_a_damaged_one_is_named(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 8)
    path = tmp_path / "data"
    path.write_bytes(bytes(24))
    digests = block_digests([bytes(24)])
    path.write_bytes(bytes(10) + b"\1" + bytes(13))
    with pa.OSFile(str(path)) as file:
        checked = CheckedFile(file, "data", digests, "restore it")
        assert checked.read_at(8, 16) == bytes(8)
        with pytest.raises(InputError, match=r"^data: damaged \(bytes 8 to 16 .*\): restore it$"):
            checked.read_at(2, 8)
    with pa.OSFile(str(path)) as file, pytest.raises(InputError, match="its size is not"):
        CheckedFile(file, "data", digests[:-8], "restore it")
