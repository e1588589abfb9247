"""`python -m etl status` on tables that are up to date, outdated, damaged or missing."""

import shlex
import subprocess
import sys

import pyarrow as pa
import pytest

from etl.__main__ import main
from etl.builders.workspace import FileCounts
from etl.recipes import raw_inputs, recipes
from etl.status import (
    Build,
    TableState,
    build_report,
    counters_text,
    rejects_report,
    status_report,
    table_statuses,
    undescribed_items,
)
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
    """Write one row into each table, under the experiment's own recipe."""
    table = pa.schema({"item": pa.int32()})
    recipe_of = recipes(experiment, raw_inputs(experiment))
    for name in names or recipe_of:
        batch = pa.RecordBatch.from_pydict({"item": [1]}, schema=table)
        uri = tables.table_uri(experiment.root, name)
        tables.write_table(uri, [batch], table, recipe_of[name], counters)


def status_by_name(experiment):
    return {table.name: table for table in table_statuses(experiment)}


def test_counters_are_short_and_zeros_are_left_out():
    counters = {"users": 1234, "bad_lines": 0, "recall": 0.97, "weight": 2673.15971, "from": "Z"}
    assert counters_text(counters) == "users 1,234, recall 0.97, weight 2,673.1597, from Z"


def test_without_tables_all_are_missing_and_etl_comes_next(config, capsys):
    assert {table.state for table in table_statuses(load_experiment(config))} == {
        TableState.MISSING
    }
    main(["status", str(config), "seed=3"])
    assert capsys.readouterr().out.splitlines()[-1] == f"next: python -m etl {config} seed=3"


def test_when_all_are_up_to_date_training_comes_next_and_neighbors_show_their_recall(
    config, capsys
):
    write_tables(load_experiment(config), recall=0.97)
    main(["status", str(config)])
    title, header, *lines, total, after = capsys.readouterr().out.splitlines()
    assert title == f"Tables under {config.parent}/root/dataset"
    assert header.split() == ["table", "state", "rows", "size", "age"]
    assert after == f"next: python -m training {config}"
    neighbors = next(line for line in lines if "neighbors/image" in line)
    assert neighbors.split()[1:5] == ["up", "to", "date", "1"]
    assert neighbors.endswith("recall 0.97")
    assert total.split()[:7] == ["total", *f"{len(lines)} of {len(lines)} up to date".split()]


def test_a_built_table_is_reported_with_its_rows_and_counters(config):
    experiment = load_experiment(config)
    write_tables(experiment, ["interactions", "items"], users=1234)
    uris = {name: tables.table_uri(experiment.root, name) for name in ("interactions", "items")}
    manifests = {name: tables.open_table(uri) for name, uri in uris.items()}
    manifests["items"].counters.update(encoded=3, cached=2000)
    files = {"interactions": FileCounts(1, 2)}
    built = Build(manifests, {"items": "made from sequences, which changed"}, files)
    assert build_report(experiment, built).splitlines() == [
        f"Tables under {experiment.root}/dataset",
        "  table         state  rows",
        "  interactions  kept      1  users 1,234",
        "  items         built     1  made from sequences, which changed; users 1,234, encoded 3, "
        "cached 2,000",
        "  files    interactions 1 parsed, 2 kept",
        "  vectors  items 3 encoded, 2,000 from the cache",
    ]


def test_a_changed_setting_is_named_with_both_values_and_derived_tables_by_their_input(config):
    write_tables(load_experiment(config))
    found = status_by_name(load_experiment(config, ["sequences.k_core=5"]))
    assert found["sequences"].reason == "k_core changed from 2 to 5"
    assert found["items"].reason == "made from sequences, which changed"
    assert found["interactions"].state == TableState.UP_TO_DATE
    states = {table.state for table in found.values()}
    assert states == {TableState.UP_TO_DATE, TableState.OUTDATED}


def test_a_changed_raw_file_is_named(config):
    write_tables(load_experiment(config))
    (config.parent / "reviews.json").write_text("{}\n{}\n")
    found = status_by_name(load_experiment(config))
    assert found["interactions"].reason == "reviews.0 changed"
    assert found["metadata"].state == TableState.UP_TO_DATE


def test_a_missing_file_of_a_table_and_a_broken_manifest_are_damage(config):
    experiment = load_experiment(config)
    write_tables(experiment)
    root = config.parent / "root" / "dataset"
    next((root / "items").rglob("*.parquet")).unlink()
    (root / "sequences" / tables.MANIFEST).write_text("{")
    found = status_by_name(experiment)
    damaged = [name for name, table in found.items() if table.state == TableState.DAMAGED]
    assert damaged == ["sequences", "items"]
    assert "a file of the table is missing" in found["items"].reason
    assert "damaged" in found["sequences"].reason
    assert len(status_report(experiment, list(found.values())).splitlines()) == len(found) + 3


def test_a_table_of_another_schema_version_is_damaged_not_missing(config, monkeypatch):
    experiment = load_experiment(config)
    write_tables(experiment, ["interactions"])
    monkeypatch.setattr(schema, "VERSION", schema.VERSION + 1)
    found = table_statuses(experiment)
    assert (found[0].name, found[0].state) == ("interactions", TableState.DAMAGED)
    assert "schema version" in found[0].reason
    assert {table.state for table in found[1:]} == {TableState.MISSING}


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


def test_reasons_are_counted_before_they_are_named():
    counters = {"interactions: 2 columns instead of 4": 1, "missed: 404": 1200}
    assert (
        counters_text(counters) == "interactions: 1 x 2 columns instead of 4, missed: 1,200 x 404"
    )


def test_the_first_rejected_rows_are_shown_with_a_command_that_shows_all(config):
    experiment = load_experiment(config)
    uri = tables.table_uri(experiment.root, "rejects")
    recipe = tables.Recipe({}, {})
    empty = tables.write_table(uri, [], schema.REJECTS, recipe)
    assert rejects_report(experiment, empty) == []
    rows = {
        "source": ["a.csv"] * 4,
        "line": [2, 5, 7, 9],
        "reason": ["user is null", "2 columns instead of 4", "not JSON", "user is null"],
        "raw": [None, "K1;\n7", "x" * 101, ""],
    }
    batch = pa.RecordBatch.from_pydict(rows, schema=schema.REJECTS)
    head, *first, command = rejects_report(
        experiment, tables.write_table(uri, [batch], schema.REJECTS, recipe)
    )
    assert head == "Rejected rows, the first 3 of 4:"
    assert first == [
        "  a.csv, row 2: user is null: ",
        "  a.csv, row 5: 2 columns instead of 4: K1; 7",
        f"  a.csv, row 7: not JSON: {'x' * 100}...",
    ]
    program = shlex.split(command.removeprefix("  all: "))[2]
    command = [sys.executable, "-c", program]
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    assert shown.stdout.count("user is null") == 2


def test_ordered_items_that_the_input_does_not_describe_are_said(config):
    experiment = load_experiment(config)
    counters = {"items_without_metadata": 12, "items_interacted": 1300}
    uri = tables.table_uri(experiment.root, "items")
    found = tables.write_table(uri, [], schema.ITEMS, tables.Recipe({}, {}), counters)
    assert undescribed_items(experiment, found) == []  # there is no metadata at all
    described = load_experiment(config, [f"input.metadata=['{config.parent}/meta.json']"])
    assert undescribed_items(described, found) == [
        "12 of 1,300 ordered items are not in the metadata: they have no title, text or image"
    ]
