"""Former versions of tables: readable by their fingerprint while a run needs them."""

import os
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from random_runs import TWO_USERS, write_weights
from raw_catalogue import small_toml, write_raw
from small_dataset import small_experiment, write_dataset

from benchmarks.faults.plain_tables import build_plain_tables
from etl.builders.leftovers import clean_leftovers
from etl.status import build_report, table_statuses
from evaluation.channel_weights import describe_weighted
from evaluation.run import dataset_manifests, evaluate
from evaluation.serving.append import append, undo
from evaluation.serving.loading import Served
from evaluation.workers import RankWorker
from mdsrec import files, schema, tables
from mdsrec.config import Experiment
from mdsrec.config.loading import load_experiment
from mdsrec.errors import InputError
from mdsrec.jobs import promises
from mdsrec.jobs.promises import ReplacedError, promised
from mdsrec.run_paths import RunPaths, _say_former, former_tables, run_fingerprints
from mdsrec.run_tables import is_needed
from mdsrec.table_settings import stored_fingerprints
from mdsrec.tables import Recipe, former
from training.data.table_checks import check_item_tables
from training.lifecycle.identity import check_claim, claim
from training.run import fit

ONE, TWO, THREE = (Recipe({"k": k}, {}) for k in (1, 2, 3))


def write(uri: str, center: int, recipe: Recipe, root: str | None = None) -> tables.Manifest:
    """Write a table of one row. With a root, versions that its runs need are kept."""
    rows = pa.record_batch({"item": [0], "center": [center]}, schema=schema.CENTERS)
    needed = tables.needed_by_none if root is None else partial(is_needed, root, "centers")
    return tables.write_table(uri, [rows], schema.CENTERS, recipe, needed=needed)


def read(uri: str) -> int:
    [center] = tables.read_table(uri, schema.CENTERS)["center"].to_pylist()
    return int(center)


def num_versions(uri: str) -> int:
    return len([path for path in Path(uri).iterdir() if tables.VERSION.fullmatch(path.name)])


@pytest.fixture
def root(tmp_path: Path) -> str:
    """A root with a run that was trained on the table `centers` of the recipe ONE."""
    write_run(tmp_path, "first", ONE)
    write(tables.table_uri(str(tmp_path), "centers"), 1, ONE)
    return str(tmp_path)


@pytest.fixture
def uri(root: str) -> str:
    return tables.table_uri(root, "centers")


def write_run(root: Path, name: str, recipe: Recipe) -> None:
    dataset = RunPaths(f"{root}/runs/{name}").dataset
    files.write_json(dataset, {"centers": recipe.fingerprint})


def test_a_version_that_a_run_needs_is_read_by_those_who_were_promised_it(
    root: str, uri: str
) -> None:
    write(uri, 2, TWO, root)
    write(uri, 3, THREE, root)  # nobody needs the second one
    assert (read(uri), num_versions(uri)) == (3, 2)
    assert former_tables(f"{root}/runs/first") == {uri: ONE.fingerprint}
    with promised({uri: ONE.fingerprint}):
        assert read(uri) == 1
        promises.check_opened()
        write(uri, 4, Recipe({"k": 4}, {}), root)  # meanwhile
        promises.check_opened()
        assert read(uri) == 1
    for fingerprint, current_only in ((TWO.fingerprint, False), (ONE.fingerprint, True)):
        with (
            pytest.raises(ReplacedError, match="replaced by another job"),
            promised({uri: fingerprint}, current_only),
        ):
            read(uri)


def test_without_a_run_that_needs_it_a_former_version_is_deleted(root: str, uri: str) -> None:
    write(uri, 2, TWO)
    assert (num_versions(uri), tables.former_fingerprints(uri)) == (1, [])
    assert former_tables(f"{root}/runs/first") == {}


def test_where_the_tables_of_a_run_cannot_be_read_every_version_is_kept(
    root: str, uri: str, tmp_path: Path
) -> None:
    write(uri, 2, TWO, root)
    (tmp_path / "runs/second").mkdir()
    (tmp_path / "runs/second/dataset.json").write_text("{")
    write(uri, 3, THREE, root)
    assert tables.former_fingerprints(uri) == sorted([ONE.fingerprint, TWO.fingerprint])


def test_a_former_version_is_made_current_again_instead_of_built(
    root: str, uri: str, tmp_path: Path
) -> None:
    write_run(tmp_path, "second", TWO)
    needed = partial(is_needed, root, "centers")
    write(uri, 2, TWO, root)
    for recipe, center in ((ONE, 1), (TWO, 2), (ONE, 1)):
        manifest = tables.restore(uri, recipe, needed)
        assert manifest and manifest == tables.find_table(uri, recipe)
        assert (read(uri), num_versions(uri)) == (center, 2)
    assert tables.former_fingerprints(uri) == [TWO.fingerprint]
    assert tables.restore(uri, THREE, needed) is None
    [part] = set(Path(uri).rglob("*.parquet")) - {Path(uri, tables.open_table(uri).files[0].path)}
    part.unlink()
    assert tables.restore(uri, TWO, needed) is None
    write(uri, 2, TWO, root)  # built again: the damaged one is of no use to anybody
    assert (read(uri), num_versions(uri)) == (2, 2)
    assert tables.former_fingerprints(uri) == [ONE.fingerprint]


def test_an_etl_of_the_input_before_finds_the_tables_of_a_run_again(tmp_path: Path) -> None:
    write_raw(tmp_path, users=20, items=10)
    before = load_experiment(small_toml(tmp_path, ""))
    after = load_experiment(small_toml(tmp_path, ""), ["sequences.k_core=4"])
    first = build_plain_tables(before)
    listed = {name: first.manifests[name].fingerprint for name in ("items", "sequences")}
    files.write_json(RunPaths(f"{before.root}/runs/first").dataset, listed)
    second = build_plain_tables(after)
    assert second.reasons["sequences"] == "k_core changed from 5 to 4" and not second.found
    [status] = [each for each in table_statuses(before) if each.name == "sequences"]
    assert status.reason == "k_core changed from 4 to 5; a former version of this recipe is kept"
    again = build_plain_tables(before)
    for name in again.found:
        assert again.manifests[name] == first.manifests[name]
    assert again.found == {"items", "sequences"}
    assert {"interactions", "metadata"}.isdisjoint(again.reasons)
    assert "found" in build_report(before, again)


def test_what_a_killed_build_left_is_not_what_a_run_needs(root: str, uri: str) -> None:
    write(uri, 2, TWO, root)
    for path in Path(uri).rglob("*"):
        os.utime(path, (0, 0))
    clean_leftovers(root)
    with promised({uri: ONE.fingerprint}):
        assert read(uri) == 1
    assert read(uri) == 2


class Killed(BaseException):
    """The end of a process, which nothing in it handles."""


def kill_at(step: int, patch: pytest.MonkeyPatch) -> None:
    """End whatever is done with the files of a table before its `step`-th change, from 0."""
    left = [step]

    def killed(change: Callable[..., None], *arguments: Any) -> None:
        if not left[0]:
            raise Killed
        left[0] -= 1
        change(*arguments)

    for name in ("write_json", "delete_file", "delete_folder"):
        patch.setattr(former, name, partial(killed, getattr(former, name)))


@pytest.mark.parametrize(("action", "num_steps"), [("commit", 4), ("restore", 4), ("delete", 2)])
def test_a_kill_between_any_two_steps_leaves_every_version_readable(
    tmp_path: Path, action: str, num_steps: int
) -> None:
    """A table of ONE is replaced by TWO; or ONE is made current again, or deleted, after that."""
    for step in range(num_steps + 1):
        root = str(tmp_path / str(step))
        uri, needed = tables.table_uri(root, "centers"), partial(is_needed, root, "centers")
        write_run(Path(root), "first", ONE)
        write_run(Path(root), "second", TWO)
        write(uri, 1, ONE)
        if action != "commit":
            write(uri, 2, TWO, root)
        with pytest.MonkeyPatch.context() as patch, suppress(Killed):
            kill_at(step, patch)
            if action == "commit":
                write(uri, 2, TWO, root)
            elif action == "restore":
                tables.restore(uri, ONE, needed)
            else:
                former.delete_former(uri, ONE.fingerprint)
        versions = {read(uri)}
        for recipe, center in ((ONE, 1), (TWO, 2)):
            with suppress(ReplacedError), promised({uri: recipe.fingerprint}):
                versions.add(read(uri))
                assert read(uri) == center
        if action == "commit":
            expected = {1, 2} if step >= 2 else {1}
        elif action == "restore":
            expected = {1, 2}
        else:
            expected = {2} if step >= 1 else {1, 2}
        assert versions == expected
        for path in Path(uri).rglob("*"):
            os.utime(path, (0, 0))
        clean_leftovers(root)
        assert num_versions(uri) == len(expected)


def train(root: Path, memory: bool = False) -> Experiment:
    """Write the small data set, and a run with random weights on it."""
    experiment = small_experiment(root, eval=TWO_USERS, model={"memory": memory})
    write_dataset(experiment)
    claim(experiment, check_item_tables(experiment))
    write_weights(experiment, seed=1)
    return experiment


@pytest.fixture
def trained(tmp_path: Path) -> Experiment:
    return train(tmp_path)


def test_a_finished_run_reads_the_tables_it_was_trained_on(
    trained: Experiment, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    _say_former.cache_clear()
    fingerprints, run = run_fingerprints(trained), RunPaths.of(trained).uri
    catalogue = Served.load(run).catalogue
    write_dataset(trained, seed=1)
    assert run_fingerprints(trained) == fingerprints
    assert run_fingerprints(trained) == fingerprints
    said = [line for line in caplog.messages if "were replaced since" in line]
    reads = "it reads those that its weights are for"
    assert said == [f"run {run}: its tables were replaced since; {reads}"]
    served = Served.load(run)
    assert served.catalogue.num_train.tolist() == catalogue.num_train.tolist()
    with promised(fingerprints):
        weight_of, claimed = describe_weighted(trained).weight_of, promises.current()
        sequences = dataset_manifests(trained)["sequences"]
    assert sequences.fingerprint == fingerprints[tables.table_uri(trained.root, "sequences")]
    with promised({}):  # as in another process
        worker = RankWorker(trained, weight_of, None, claimed)
        assert worker.trained.dataset_fingerprint == served.trained.dataset_fingerprint


def test_appended_items_are_read_with_the_tables_that_they_were_appended_for(
    trained: Experiment,
) -> None:
    before = run_fingerprints(trained)
    write_dataset(trained, seed=1)
    append(trained)
    second = stored_fingerprints(trained)
    assert second.items() <= run_fingerprints(trained).items()
    write_dataset(trained, seed=2)
    assert stored_fingerprints(trained) != second
    assert second.items() <= run_fingerprints(trained).items()
    undo(trained)
    assert run_fingerprints(trained) == before


def test_a_training_of_the_replaced_tables_is_refused_by_their_names(trained: Experiment) -> None:
    write_dataset(trained, seed=1)
    with pytest.raises(InputError, match=r"its data set has changed \(centers/image/k=3, "):
        check_claim(trained, check_item_tables(trained))
    with pytest.raises(InputError, match="its data set has changed"):
        fit(trained)


def test_a_run_of_an_older_version_is_refused_as_before(tmp_path: Path) -> None:
    """Its list lacks what only an evaluation reads, as the memory."""
    trained = train(tmp_path, memory=True)
    paths = RunPaths.of(trained)
    files.write_json(paths.dataset, check_item_tables(trained))
    write_dataset(trained, seed=1)
    with pytest.raises(InputError, match="trained on data set"):
        Served.load(paths.uri)


@pytest.mark.slow
@pytest.mark.ray
def test_a_run_is_evaluated_on_its_own_tables_with_equal_metrics(
    tmp_path: Path, shared_ray: None
) -> None:
    trained = train(tmp_path, memory=True)
    paths = RunPaths.of(trained)
    evaluate(trained)
    before = files.read_json(paths.metrics)
    write_dataset(trained, seed=1)
    files.delete_folder(paths.ranks)
    files.delete_file(paths.metrics)
    evaluate(trained)
    assert files.read_json(paths.metrics) == before
