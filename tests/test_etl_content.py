"""Input files are identified by their content: what is copied or touched is not built again."""

import os
import shutil
from pathlib import Path

import pytest

from etl.catalogue import content_hashes
from etl.catalogue.content_hashes import ContentHashes
from etl.catalogue.raw import raw_files
from etl.features import images
from etl.recipes import raw_inputs, recipes
from etl.tabular.listing import input_files
from mdsrec.config import InputConfig
from mdsrec.config.loading import experiment_from
from mdsrec.errors import InputError

READERS = {  # the tables that read an input file
    "raw/a.json": ["interactions", "rejects"],
    "meta.json": ["metadata", "rejects"],
    "vectors.npy": ["features/ready"],
    "ids.txt": ["features/ready"],
    "images/B1.jpg": ["features/image"],
    "encoder/weights": ["features/image"],
}
MEMORY = "dataset/_content_hashes.json"


@pytest.fixture
def folder(tmp_path):
    for path in (*READERS, "raw/b.json", "images/B2.png"):
        file = tmp_path / "here" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(path)
    return tmp_path / "here"


def hashes_by_table(folder):
    """Return the hashes of the files that each table reads, under a root beside `folder`."""
    experiment = experiment_from(
        {
            "name": "x",
            "root": str(folder.parent / "root"),
            "input": {
                "edition": "2018",
                "reviews": [f"{folder}/raw"],
                "metadata": [f"{folder}/meta.json"],
            },
            "features": {
                "ready": {"vectors": f"{folder}/vectors.npy", "ids": f"{folder}/ids.txt"},
                "image": {"encoder": f"{folder}/encoder", "images": f"{folder}/images"},
            },
        },
        "test",
    )
    found = recipes(experiment, raw_inputs(experiment))
    return {
        name: {source: text for source, text in recipe.inputs.items() if source not in found}
        for name, recipe in found.items()
    }


def files_read(monkeypatch):
    """Return a list to which the names of all files that are hashed from now on are appended."""
    names = []
    hash_file, hash_image = content_hashes._hash_file, images._hash_image

    def count_file(bytes_read, file):
        names.append(Path(file.uri).name)
        return hash_file(bytes_read, file)

    def count_image(filesystem, folder, name):
        names.append(name)
        return hash_image(filesystem, folder, name)

    monkeypatch.setattr(content_hashes, "_hash_file", count_file)
    monkeypatch.setattr(images, "_hash_image", count_image)
    return names


def test_a_copy_in_another_folder_makes_no_table_outdated(folder):
    before = hashes_by_table(folder)
    copy = folder.parent / "there"
    shutil.copytree(folder, copy, copy_function=shutil.copy2)
    shutil.rmtree(folder)
    assert hashes_by_table(copy) == before
    (copy / "raw" / "a.json").rename(copy / "raw" / "a.jsonl")  # still the first by name
    assert hashes_by_table(copy) == before


@pytest.mark.parametrize(("path", "readers"), READERS.items())
def test_one_other_byte_makes_the_tables_that_read_it_outdated(folder, path, readers):
    before = hashes_by_table(folder)
    content = (folder / path).read_bytes()
    (folder / path).write_bytes(content[:-1] + b"!")  # of the same size
    after = hashes_by_table(folder)
    assert [name for name in before if after[name] != before[name]] == readers


def test_an_unchanged_file_is_read_once_and_a_touched_one_again(folder, monkeypatch):
    names = files_read(monkeypatch)
    before = hashes_by_table(folder)
    first = ["B1.jpg", "B2.png", "a.json", "b.json", "ids.txt", "meta.json", "vectors.npy"]
    assert sorted(names) == sorted([*first, "weights"])
    names.clear()
    assert hashes_by_table(folder) == before
    assert names == []
    for path in ("raw/a.json", "images/B1.jpg"):
        os.utime(folder / path, ns=(1, 1))
    assert hashes_by_table(folder) == before
    assert sorted(names) == ["B1.jpg", "B2.png", "a.json"]  # a folder of images as a whole
    names.clear()
    assert hashes_by_table(folder) == before
    assert names == []


@pytest.mark.parametrize(
    "content", [None, "", "{", "[]", "[1]", '{"a": 1}', '{"a": ["b", null]}', b"\xff"]
)
def test_hashes_are_computed_again_without_the_file_that_remembers_them(
    folder, monkeypatch, content
):
    before = hashes_by_table(folder)
    memory = folder.parent / "root" / MEMORY
    stored = memory.read_bytes()
    if content is None:
        memory.unlink()
    else:
        memory.write_bytes(content if isinstance(content, bytes) else content.encode())
    names = files_read(monkeypatch)
    assert hashes_by_table(folder) == before
    assert len(names) == 8
    assert memory.read_bytes() == stored


def test_two_jobs_keep_the_hashes_of_each_other(folder):
    root = str(folder.parent / "root")
    one, two = ContentHashes(root), ContentHashes(root)
    one.of_files(raw_files([f"{folder}/raw/a.json"]))
    two.of_files(raw_files([f"{folder}/raw/b.json"]))
    found = ContentHashes(root)
    for file in raw_files([f"{folder}/raw"]):
        assert found.recall(file.uri, file.state) == content_hashes._hash_file({file: 0}, file)


def test_without_modification_times_nothing_is_remembered(tmp_path):
    hashes = ContentHashes(str(tmp_path))
    hashes.remember({"gs://bucket/a": (None, "0" * 64)})
    assert hashes.recall("gs://bucket/a", None) is None
    assert not (tmp_path / MEMORY).exists()


def test_a_root_that_cannot_be_written_only_warns(folder, caplog):
    before = hashes_by_table(folder)
    shutil.rmtree(folder.parent / "root")
    (folder.parent / "root").write_text("a file")
    assert hashes_by_table(folder) == before
    assert f"{MEMORY}: not written" in caplog.text


def test_a_folder_with_an_image_that_cannot_be_read_is_read_again(folder, monkeypatch):
    hashes = ContentHashes(str(folder.parent / "root"))
    listed = [*images.image_files(f"{folder}/images"), images.ImageFile("B3.png", 1, 1)]
    monkeypatch.setattr(images, "image_files", lambda folder: iter(listed))
    without = images.folder_identity(f"{folder}/images", hashes)
    (folder / "images" / "B3.png").write_text("x")
    assert images.folder_identity(f"{folder}/images", hashes) != without


def test_a_file_name_that_is_not_utf8_is_named(tmp_path):
    for suffix in (b".jpg", b".json"):
        Path(os.fsdecode(bytes(tmp_path) + b"/caf\xe9" + suffix)).write_text("x")
    with pytest.raises(InputError, match=r"caf.*jpg' is not UTF-8: rename the file"):
        list(images.image_files(str(tmp_path)))
    config = InputConfig(format="table", interactions=[str(tmp_path)])
    for names in ([str(tmp_path)], [f"{tmp_path}/*.json"]):
        with pytest.raises(InputError, match=r"caf.*' is not UTF-8: rename the file"):
            input_files(config, names)
