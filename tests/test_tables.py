"""Tables are committed atomically."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mdsrec import files, parquet_groups, schema, tables
from mdsrec.errors import InputError
from mdsrec.tables import Recipe

ONE, TWO = Recipe({"k": 1}, {"raw": "abc"}), Recipe({"k": 2}, {"raw": "abc"})
REMEDY = "run the ETL"


def write(uri: str, centers: list[int], recipe: Recipe) -> tables.Manifest:
    table = pa.table(
        {"item": range(len(centers)), "center": centers},
        schema=schema.CENTERS,
    )
    return tables.write_table(uri, table.to_batches(), schema.CENTERS, recipe, {"k": 3})


def read(uri: str) -> list[int]:
    return tables.read_table(uri, schema.CENTERS, ["center"], REMEDY)["center"].to_pylist()


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return str(tmp_path / "centers")


def test_a_table_is_read_as_it_was_written(uri):
    manifest = write(uri, [2, 0, 1], ONE)
    assert read(uri) == [2, 0, 1]
    assert (manifest.rows, manifest.counters) == (3, {"k": 3})
    assert tables.open_table(uri, REMEDY) == manifest


def test_a_table_without_its_manifest_does_not_exist(uri):
    write(uri, [2, 0, 1], ONE)
    Path(uri, tables.MANIFEST).unlink()
    assert tables.read_manifest(uri) is None
    with pytest.raises(InputError, match=rf"{uri}: no such table: {REMEDY}"):
        read(uri)


def test_a_new_version_replaces_the_old_one(uri):
    write(uri, [2, 0, 1], ONE)
    write(uri, [1, 1], TWO)
    assert read(uri) == [1, 1]
    assert num_versions(uri) == 1


KILLED_WRITER = """
import os, signal, sys
import pyarrow as pa
from mdsrec import schema, tables

def batches():
    yield pa.record_batch({"item": [0], "center": [7]}, schema=schema.CENTERS)
    os.kill(os.getpid(), signal.SIGKILL)

tables.write_table(sys.argv[1], batches(), schema.CENTERS, tables.Recipe({"k": 2}, {}))
"""

KILLED_COMMIT = """
import os, signal, sys
import pyarrow as pa
from mdsrec import schema, tables
from mdsrec.tables import former

former.write_json = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
batch = pa.record_batch({"item": [0], "center": [7]}, schema=schema.CENTERS)
tables.write_table(sys.argv[1], [batch], schema.CENTERS, tables.Recipe({"k": 2}, {}))
"""


@pytest.mark.parametrize("program", [KILLED_WRITER, KILLED_COMMIT], ids=["rows", "commit"])
def test_a_killed_writer_leaves_the_old_table(uri, program):
    manifest = write(uri, [2, 0, 1], ONE)
    ended = subprocess.run([sys.executable, "-c", program, uri], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert tables.open_table(uri, REMEDY) == manifest
    assert read(uri) == [2, 0, 1]
    write(uri, [1, 1], TWO)
    assert num_versions(uri) == 2  # a running writer may own the leftover files
    for path in Path(uri).rglob("*"):
        os.utime(path, (0, 0))
    write(uri, [0], ONE)  # a day later the next commit deletes them
    assert num_versions(uri) == 1


def num_versions(uri):
    return len([path for path in Path(uri).iterdir() if path.is_dir()])


def test_a_commit_keeps_the_files_of_a_running_writer(uri):
    def batches():
        yield pa.record_batch({"item": [0], "center": [0]}, schema=schema.CENTERS)
        write(uri, [5, 6], TWO)
        yield pa.record_batch({"item": [1], "center": [1]}, schema=schema.CENTERS)

    tables.write_table(uri, batches(), schema.CENTERS, ONE)
    assert read(uri) == [0, 1]


def test_a_commit_with_missing_rows_is_refused(uri):
    version = tables.new_version(uri)
    Path(version).mkdir(parents=True)
    with pytest.raises(InputError, match="3 rows were written, 0 were found: put the root on"):
        tables.commit(uri, version, ONE, expected_rows=3)
    assert tables.read_manifest(uri) is None


@pytest.mark.parametrize("harm", [lambda p: os.truncate(p, 10), Path.unlink], ids=["cut", "gone"])
def test_a_damaged_file_is_named(uri, harm):
    manifest = write(uri, [2, 0, 1], ONE)
    harm(Path(uri, manifest.files[0].path))
    with pytest.raises(InputError, match=rf"{manifest.files[0].path}.*{REMEDY}"):
        read(uri)
    assert tables.find_table(uri, ONE) is None


def test_a_file_of_the_right_size_with_other_bytes_is_an_input_error(uri):
    manifest = write(uri, [2, 0, 1], ONE)
    Path(uri, manifest.files[0].path).write_bytes(bytes(manifest.files[0].bytes))
    with pytest.raises(InputError, match=r"part-00000\.parquet: damaged \(bytes 0 to"):
        read(uri)


@pytest.mark.parametrize("content", ["{", "[]", '{"rows": 3}', '{"files": [{"path": 1}]}'])
def test_a_damaged_manifest_is_named(uri, content):
    write(uri, [2, 0, 1], ONE)
    Path(uri, tables.MANIFEST).write_text(content)
    with pytest.raises(InputError, match=rf"{uri}/{tables.MANIFEST}: damaged"):
        read(uri)
    assert tables.find_table(uri, ONE) is None


def test_a_table_of_another_schema_version_is_refused(uri):
    write(uri, [2, 0, 1], ONE)
    path = Path(uri, tables.MANIFEST)
    fields = files.read_json(str(path))
    path.write_text(json.dumps({**fields, "schema_version": schema.VERSION + 1}))
    with pytest.raises(InputError, match=f"schema version {schema.VERSION + 1}"):
        read(uri)


def test_a_table_is_found_only_by_the_recipe_that_built_it(uri):
    assert tables.find_table(uri, ONE) is None
    manifest = write(uri, [2, 0, 1], ONE)
    assert tables.find_table(uri, ONE) == manifest
    assert tables.find_table(uri, TWO) is None
    assert tables.find_table(uri, Recipe({"k": 1}, {"raw": "abd"})) is None


def test_a_fingerprint_depends_on_values_and_not_on_their_order():
    assert tables.fingerprint({"a": 1, "b": [2]}) == tables.fingerprint({"b": [2], "a": 1})
    assert tables.fingerprint({"a": 1}) != tables.fingerprint({"a": 2})
    assert tables.fingerprint([1, 2]) != tables.fingerprint([2, 1])


def test_write_bytes_leaves_no_other_file(tmp_path):
    target = tmp_path / "new" / "metrics.json"
    files.write_bytes(str(target), b"one")
    files.write_bytes(str(target), b"two")
    assert target.read_bytes() == b"two"
    assert [path.name for path in target.parent.iterdir()] == ["metrics.json"]


def test_an_empty_table_is_a_table(uri):
    manifest = tables.write_table(uri, [], schema.CENTERS, ONE)
    assert manifest.rows == 0
    assert read(uri) == []


def test_a_manifest_tells_rows_and_range_of_every_row_group(uri):
    version = Path(tables.new_version(uri))
    version.mkdir(parents=True)
    for number, items in enumerate([[0, 0, 4], [4, 5, 7, 9], []]):
        rows = pa.table({"item": items, "center": [0] * len(items)}, schema=schema.CENTERS)
        pq.write_table(rows, version / f"part-{number}.parquet", row_group_size=2)
    manifest = tables.commit(uri, str(version), ONE, 7)
    files = [(f.rows, f.row_groups[0].first, f.row_groups[-1].last) for f in manifest.files]
    assert files == [(3, 0, 4), (4, 4, 9)]
    groups = [tuple(vars(group).values()) for file in manifest.files for group in file.row_groups]
    assert groups == [(2, 0, 0), (1, 4, 4), (2, 4, 5), (2, 7, 9)]
    assert tables.open_table(uri, REMEDY) == manifest


def test_a_leading_column_without_integers_has_no_range(uri):
    rows = pa.table({"source": ["a"], "line": [1], "reason": ["r"], "raw": ["x"]})
    batches = rows.cast(schema.REJECTS).to_batches()
    [file] = tables.write_table(uri, batches, schema.REJECTS, ONE).files
    [group] = file.row_groups
    assert (group.first, group.last, group.rows) == (None, None, 1)


@pytest.mark.parametrize("has_groups", [True, False], ids=["new", "old"])
def test_footers_are_read_only_where_the_manifest_is_old_and_once(uri, has_groups, monkeypatch):
    manifest = write(uri, [2, 0, 1], ONE)
    if not has_groups:
        path = Path(uri, tables.MANIFEST)
        fields = files.read_json(str(path))
        for file in fields["files"]:
            del file["row_groups"]
        path.write_text(json.dumps(fields))
        manifest = tables.open_table(uri, REMEDY)
        assert manifest.files[0].row_groups is None
    read, read_metadata = [], pq.read_metadata
    monkeypatch.setattr(pq, "read_metadata", lambda p, **k: read.append(p) or read_metadata(p, **k))
    expected = [(0, 3, 0, 2, manifest.files[0].digests)]
    for _ in range(2):
        found = tables.stored_groups(uri, manifest)
        assert [tuple(group[1:]) for group in found] == expected
    assert len(read) == (0 if has_groups else 1)
    for _ in range(2):
        assert len(parquet_groups.read_group(uri, found[0], ["item"])) == 3
    assert len(read) == (1 if has_groups else 2)


def test_a_root_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file/root: cannot be written"):
        files.check_root(str(tmp_path / "file" / "root"))
    with pytest.raises(InputError, match="unknown file system"):
        files.check_root("nowhere://bucket")


def test_what_was_written_for_a_table_that_is_not_committed_is_discarded(tmp_path):
    uri = str(tmp_path / "x")
    kept, left = tables.new_version(uri), tables.new_version(uri)
    for version in (kept, left):
        Path(version).mkdir(parents=True)
        pq.write_table(pa.table({"id": [1]}), f"{version}/part-0.parquet")
    tables.commit(uri, kept, tables.Recipe({}, {}), 1)
    tables.discard_uncommitted()
    assert Path(kept).exists() and not Path(left).exists()
