"""What killed builds leave behind: said, and deleted once nobody can be writing it."""

import fcntl
import os
import time

import pyarrow as pa
import pytest

from etl.builders.leftovers import clean_leftovers
from etl.spark import scratch
from mdsrec import tables
from mdsrec.tables import Recipe

RECIPE, SCHEMA = Recipe({}, {}), pa.schema([("id", pa.int64())])
DAY = tables.ABANDONED_AFTER + 60


@pytest.fixture
def table(tmp_path):
    """Return a table of one row below the root `tmp_path`, with a nested name."""
    uri = tables.table_uri(str(tmp_path), "features/image")
    tables.write_table(uri, [pa.record_batch([[1]], schema=SCHEMA)], SCHEMA, RECIPE)
    return tmp_path / "dataset" / "features" / "image"


def left(folder, age):
    """Write a file into a folder and let both be `age` seconds old."""
    folder.mkdir(parents=True)
    (folder / "part.parquet").write_bytes(b"x" * 2048)
    for path in (folder / "part.parquet", folder):
        os.utime(path, (time.time() - age,) * 2)
    return folder


def test_what_is_a_day_old_is_deleted_and_the_table_stays(table, tmp_path, caplog):
    caplog.set_level("INFO")
    version = left(table / "0123456789ab", DAY)
    checkpoints = left(tmp_path / "dataset" / ".checkpoints-0", DAY)
    never_committed = left(tmp_path / "dataset" / "items" / "0123456789ab", DAY)
    for path in table.rglob("*"):
        os.utime(path, (time.time() - DAY,) * 2)
    clean_leftovers(str(tmp_path))
    assert not any(path.exists() for path in (version, checkpoints, never_committed))
    assert tables.find_table(str(table), RECIPE) is not None
    assert [record.getMessage().split(": ")[0] for record in caplog.records] == [
        "deleted what a killed build left a day ago"
    ] * 3


def test_what_is_younger_is_said_with_the_command_that_deletes_it(table, tmp_path, caplog):
    version = left(table / "0123456789ab", 60)
    clean_leftovers(str(tmp_path))
    assert version.exists()
    [record] = caplog.records
    assert record.getMessage().startswith("1 folders (2.0 KiB) are of no table")
    assert record.getMessage().endswith(f"delete them now: rm -r {version}")


def test_versions_of_a_table_whose_manifest_cannot_be_read_stay(table, tmp_path, caplog):
    version = left(table / "0123456789ab", DAY)
    (table / tables.MANIFEST).write_text("{")
    clean_leftovers(str(tmp_path))
    assert version.exists() and not caplog.records


def test_a_root_without_tables_has_no_leftovers(tmp_path, caplog):
    clean_leftovers(str(tmp_path / "new"))
    assert not caplog.records


def test_temporary_folders_of_killed_processes_are_deleted_and_used_ones_stay(tmp_path):
    dead, used, other = (
        left(tmp_path / f"{name}", 3600)
        for name in ("mdsrec-etl-dead", "mdsrec-etl-used", "spark-other")
    )
    for folder in (dead, used):
        (folder / scratch.LOCK).touch()
        os.utime(folder, (time.time() - 3600,) * 2)
    with (used / scratch.LOCK).open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        scratch.delete_abandoned(tmp_path)
    assert [folder.exists() for folder in (dead, used, other)] == [False, True, True]
