"""`python -m etl clean`: former tables, parsed batches and leftovers go, and what is kept stays."""

import hashlib
import threading
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest

from etl.__main__ import main
from etl.builders.parsed_batches import FOLDER
from etl.clean import clean
from etl.recipes import raw_inputs, recipes
from mdsrec import files, tables
from mdsrec.config import Experiment
from mdsrec.config.loading import load_experiment
from mdsrec.errors import InputError
from mdsrec.jobs import promises
from mdsrec.jobs.lease import Lease, hold
from mdsrec.run_paths import RunPaths
from mdsrec.run_tables import is_needed
from mdsrec.tables import Recipe, former, versions

CONFIG = """
name = "x"
root = "{folder}/root"
[input]
edition = "2018"
reviews = ["{folder}/january.json", "{folder}/february.json"]
[model]
name = "sasrec"
"""
ROW = pa.schema({"item": pa.int32()})
FIRST, SECOND = Recipe({"k": 1}, {}), Recipe({"k": 2}, {})


def write(uri: str, recipe: Recipe, needed: tables.Needed = tables.needed_by_none) -> None:
    batch = pa.record_batch({"item": [1]}, schema=ROW)
    tables.write_table(uri, [batch], ROW, recipe, needed=needed)


def batch_of(root: Path, *contents: str) -> Path:
    """Write a parsed batch of files with these contents -> its folder."""
    hashes = [hashlib.sha256(content.encode()).hexdigest() for content in contents]
    recipe = Recipe({"edition": "2018"}, {str(n): text for n, text in enumerate(hashes)})
    uri = root / "dataset" / FOLDER / "interactions" / recipe.fingerprint
    write(str(uri), recipe)
    return uri


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Two months; the runs `first` and `second` were trained before the tables were replaced."""
    (tmp_path / "x.toml").write_text(CONFIG.format(folder=tmp_path))
    for month in ("january", "february"):
        (tmp_path / f"{month}.json").write_text(month)
    root = tmp_path / "root"
    for run, recipe in (("first", FIRST), ("second", SECOND)):
        listed = {"items": recipe.fingerprint, "sequences": recipe.fingerprint}
        files.write_json(RunPaths(f"{root}/runs/{run}").dataset, listed)
    experiment = load_experiment(tmp_path / "x.toml")
    built = recipes(experiment, raw_inputs(experiment))
    for name, recipe in built.items():
        uri, needed = tables.table_uri(str(root), name), partial(is_needed, str(root), name)
        for version in (*((FIRST, SECOND) if name in ("items", "sequences") else ()), recipe):
            write(uri, version, needed)
    return tmp_path / "x.toml"


def stored(config: Path) -> dict[str, list[str]]:
    """Return the former versions by table, and the batches."""
    dataset = config.parent / "root" / "dataset"
    names = ("items", "sequences")
    found = {name: tables.former_fingerprints(str(dataset / name)) for name in names}
    return found | {"batches": sorted(path.name for path in (dataset / FOLDER).glob("*/*"))}


def is_complete(experiment: Experiment) -> bool:
    """Return whether all tables can be read, former ones too, and each version has a manifest."""
    for name in recipes(experiment, raw_inputs(experiment)):
        uri = tables.table_uri(experiment.root, name)
        tables.open_table(uri)
        for fingerprint in tables.former_fingerprints(uri):
            with promises.promised({uri: fingerprint}):
                assert tables.open_table(uri).fingerprint == fingerprint
        if versions.versions(uri) != tables.listed_versions(uri):
            return False
    return True


def test_what_no_kept_run_needs_is_deleted_and_the_runs_that_lose_it_are_named(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = config.parent / "root"
    gone, kept = batch_of(root, "december"), batch_of(root, "december", "january")
    killed = root / "dataset/items/0123456789ab"
    killed.mkdir()
    (killed / "part.parquet").write_bytes(b"x" * 2048)
    before = stored(config)
    assert before["items"] == sorted([FIRST.fingerprint, SECOND.fingerprint])
    main(["clean", str(config), "--keep", "second", "--dry-run"])
    said = capsys.readouterr().out.splitlines()
    assert said[-1] == "run first could no longer be evaluated: its items, sequences"
    assert stored(config) == before and killed.exists()
    main(["clean", str(config), "--keep", f"{root}/runs/second/"])
    title, *rows, last = capsys.readouterr().out.splitlines()
    assert title.split() == ["Deleted", "below", f"{root}/dataset", "size"]
    whats = [" ".join(row.split()[:-2]) for row in rows]
    assert whats == [
        f"former items, {FIRST.fingerprint[-8:]}",
        f"former sequences, {FIRST.fingerprint[-8:]}",
        f"parsed interactions of 1 files, {gone.name[-8:]}",
        "leftover items/0123456789ab",
        "total",
    ]
    assert last == "run first can no longer be evaluated: its items, sequences"
    assert stored(config) == {
        "items": [SECOND.fingerprint],
        "sequences": [SECOND.fingerprint],
        "batches": [kept.name],
    }
    assert not killed.exists() and is_complete(load_experiment(config))
    main(["clean", str(config), "--keep", "second"])
    assert capsys.readouterr().out == f"{root}/dataset: nothing to delete\n"


def test_a_damaged_batch_is_deleted(config: Path) -> None:
    damaged = batch_of(config.parent / "root", "january")
    (damaged / tables.MANIFEST).write_text("{")
    clean(load_experiment(config))
    assert stored(config) == {"items": [], "sequences": [], "batches": []}


def test_a_run_that_is_to_be_kept_must_exist(config: Path) -> None:
    with pytest.raises(InputError, match=r"--keep third: no such run .*; there are first, second"):
        clean(load_experiment(config), ["third"])
    assert len(stored(config)["items"]) == 2


def test_a_clean_waits_for_an_etl_that_writes_a_table(
    config: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mdsrec.jobs.lease.EXPIRY_SECONDS", 1.0)
    monkeypatch.setattr("mdsrec.jobs.lease.HEARTBEAT_SECONDS", 0.1)
    experiment = load_experiment(config)

    lease = Lease([f"{experiment.root}/dataset/{FOLDER}.writer"])
    with hold(lease, "writing tables"):
        cleaning = threading.Thread(target=clean, args=[experiment])
        cleaning.start()
        time.sleep(1.5)
        assert len(stored(config)["items"]) == 2
    cleaning.join()
    assert stored(config)["items"] == []
    assert any(line.endswith(": waiting for it to end") for line in caplog.messages)


class Killed(BaseException):
    """The end of a process, which nothing in it handles."""


def test_a_clean_that_is_killed_leaves_nothing_half_made(config: Path) -> None:
    """It is killed before its first change, its second one, and so on, then run again."""
    experiment = load_experiment(config)
    batch = batch_of(config.parent / "root", "december")
    step, ended = 0, False
    while not ended:
        left = [step]

        def killed(change: object, *arguments: str, left: list[int] = left) -> None:
            if not left[0]:
                raise Killed
            left[0] -= 1
            change(*arguments)  # type: ignore[operator]

        with pytest.MonkeyPatch.context() as patch, suppress(Killed):
            for module in (former, versions):
                for name in ("delete_file", "delete_folder"):
                    patch.setattr(module, name, partial(killed, getattr(module, name)))
            clean(experiment, ["second"])
            ended = True
        is_complete(experiment)  # every version that is listed can be read
        step += 1
    assert step > 3
    assert stored(config) == {
        "items": [SECOND.fingerprint],
        "sequences": [SECOND.fingerprint],
        "batches": [],
    }
    assert is_complete(experiment) and not batch.exists()
