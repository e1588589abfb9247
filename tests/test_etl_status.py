"""What `python -m etl status` says of tables that stand, differ, are damaged or absent."""

import subprocess
import sys

import pyarrow as pa
import pytest

from etl.__main__ import main
from etl.recipes import raw_inputs, recipes
from etl.status import ABSENT, DAMAGED, DIFFERS, STANDS, screen, standings
from etl.summary import counters_line
from mdsrec import schema, tables
from mdsrec.config.loading import load_experiment

CONFIG = """
name = "x"
root = "{folder}/root"
[input]
edition = "2018"
reviews = ["{folder}/reviews.json"]
[sequences]
k_core = 2
[features.image]
vectors = "{folder}/image.parquet"
"""


@pytest.fixture
def config(tmp_path):
    for name in ("reviews.json", "image.parquet"):
        (tmp_path / name).write_text("{}\n")
    path = tmp_path / "x.toml"
    path.write_text(CONFIG.format(folder=tmp_path))
    return path


def write_tables(experiment, names=None, **counters):
    """One row for each table, under the experiment's own recipe."""
    table = pa.schema({"item": pa.int32()})
    made_by = recipes(experiment, raw_inputs(experiment))
    for name in names or made_by:
        batch = pa.RecordBatch.from_pydict({"item": [1]}, schema=table)
        uri = tables.table_uri(experiment.root, name)
        tables.write_table(uri, [batch], table, made_by[name], counters)


def found_by(experiment):
    return {table.name: table for table in standings(experiment)}


def test_counters_are_short_and_zeros_are_left_out():
    counters = {"users": 1234, "bad_lines": 0, "recall": 0.97, "weight": 2673.15971, "from": "Z"}
    assert counters_line(counters) == "users 1,234, recall 0.97, weight 2,673.1597, from Z"


def test_without_tables_all_are_absent_and_etl_comes_next(config, capsys):
    assert {table.state for table in standings(load_experiment(config))} == {ABSENT}
    main(["status", str(config), "seed=3"])
    assert capsys.readouterr().out.splitlines()[-1] == f"next: python -m etl {config} seed=3"


def test_when_all_stand_training_comes_next_and_neighbours_say_their_recall(config, capsys):
    write_tables(load_experiment(config), recall=0.97)
    main(["status", str(config)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"next: python -m training {config}"
    neighbours = next(line for line in lines if "neighbors/image" in line)
    assert neighbours.split()[1:3] == [STANDS, "1"]
    assert neighbours.endswith("recall 0.97")
    count = str(len(lines[1:-2]))
    assert lines[-2].split()[:5] == ["total", count, "of", count, "stand"]


def test_another_setting_is_named_with_both_values_and_what_derives_by_its_input(config):
    write_tables(load_experiment(config))
    found = found_by(load_experiment(config, ["sequences.k_core=5"]))
    assert found["sequences"].why == "k_core was 2, is 5"
    assert found["items"].why == "another sequences"
    assert found["interactions"].state == STANDS
    assert {table.state for table in found.values()} == {STANDS, DIFFERS}


def test_a_changed_raw_file_is_named(config):
    write_tables(load_experiment(config))
    (config.parent / "reviews.json").write_text("{}\n{}\n")
    found = found_by(load_experiment(config))
    assert found["interactions"].why == "another reviews.0"
    assert found["metadata"].state == STANDS


def test_a_missing_file_of_a_table_and_a_broken_manifest_are_damage(config):
    experiment = load_experiment(config)
    write_tables(experiment)
    root = config.parent / "root" / "dataset"
    next((root / "items").rglob("*.parquet")).unlink()
    (root / "sequences" / tables.MANIFEST).write_text("{")
    found = found_by(experiment)
    damaged = [name for name, table in found.items() if table.state == DAMAGED]
    assert damaged == ["sequences", "items"]
    assert "a file of the table is missing" in found["items"].why
    assert "damaged" in found["sequences"].why
    assert len(screen(experiment, list(found.values())).splitlines()) == len(found) + 2


def test_another_schema_version_is_told_from_an_absent_table(config, monkeypatch):
    experiment = load_experiment(config)
    write_tables(experiment, ["interactions"])
    monkeypatch.setattr(schema, "VERSION", schema.VERSION + 1)
    found = standings(experiment)
    assert (found[0].name, found[0].state) == ("interactions", DAMAGED)
    assert "schema version" in found[0].why
    assert {table.state for table in found[1:]} == {ABSENT}


def test_missing_raw_files_are_one_line_and_exit_code_two(config):
    (config.parent / "reviews.json").unlink()
    done = subprocess.run(
        [sys.executable, "-m", "etl", "status", str(config)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"etl: {config.parent}/reviews.json: no such file or folder\n"
