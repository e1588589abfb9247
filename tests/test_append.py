"""Items that a run was not trained on get rows, and are ranked, recommended and exported."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from catalogues import experiment_on, write_catalogue, write_run
from small_dataset import toml_of
from torch import Tensor

from evaluation import Recommender
from evaluation.channel_weights import describe_weighted
from evaluation.run import evaluate
from evaluation.serving.append import append, undo
from evaluation.serving.export import export
from mdsrec import files, tables
from mdsrec.__main__ import main
from mdsrec.config import Experiment
from mdsrec.errors import InputError
from mdsrec.run_paths import RunPaths
from training.checkpoints.stored_weights import StoredWeights
from training.inference import load_trained
from training.models.registry import MODELS
from training.trained_run import describe_trained
from training.warm import source
from training.warm.source import ItemIds

# e is in the first catalogue without a training event; x and y come later, with their neighbors.
FIRST, LATER = list("abcde"), list("abcdexy")
HISTORIES = [list("abcda"), list("bcade"), list("dcabe")]
NEW_HISTORIES = [*HISTORIES, list("abxyx")]
NEAR = {i: list("abcd".replace(i, "")) for i in "abcd"} | {"e": list("cda")}
NEW_NEAR = {**NEAR, "x": list("abe"), "y": ["x"]}


def write_first(root: Path) -> None:
    write_catalogue(root, FIRST, HISTORIES, {"text": NEAR, "image": NEAR})


def write_later(root: Path) -> None:
    write_catalogue(root, LATER, NEW_HISTORIES, {"text": NEW_NEAR, "image": NEW_NEAR}, seed=1)


def bert4rec(root: Path) -> Experiment:
    return experiment_on(root, "bert4rec", eval={"num_workers": 1, "cutoffs": [2]})


@pytest.fixture
def grown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a root on which a run can be trained; `grow` replaces its tables by later ones."""
    write_first(tmp_path / "root")
    write_first(tmp_path / "former")
    former = ItemIds.of_root(str(tmp_path / "former"))
    monkeypatch.setattr(source, "items_of_run", lambda uri, root, trained_on: former)
    return tmp_path / "root"


def rows(experiment: Experiment, name: str = "item_embedding") -> Tensor:
    return StoredWeights(RunPaths.of(experiment).appended_weights).tensor(name)


def test_an_item_without_training_events_gets_the_mean_of_its_neighbors(tmp_path: Path) -> None:
    write_first(tmp_path)
    experiment = bert4rec(tmp_path)
    before = write_run(experiment)
    text = append(experiment)
    assert "1 items got their rows after the training: 1 from their nearest trained" in text
    assert "4 rows of trained items" in text
    for name in ("item_embedding", "item_bias"):
        found = rows(experiment, name)
        assert torch.equal(found[:4], before[name][:4])
        torch.testing.assert_close(found[4], (before[name][[0, 2, 3]]).mean(0))
    dense = before.keys() - {"item_embedding", "item_bias"}
    stored = StoredWeights(RunPaths.of(experiment).appended_weights)
    assert all(torch.equal(stored.tensor(name), before[name]) for name in dense)
    loaded, described = load_trained(experiment), describe_trained(experiment)
    assert loaded.weights_fingerprint == described.weights_fingerprint == stored.fingerprint()
    assert described.appended is not None


@pytest.mark.parametrize("name", MODELS)
def test_every_model_ranks_items_that_came_later(name: str, grown: Path) -> None:
    experiment = experiment_on(grown, name)
    before = write_run(experiment)["item_embedding"]
    write_later(grown)
    with pytest.raises(InputError, match=r"give rows to its new items .`mdsrec append CONFIG`"):
        load_trained(experiment)
    append(experiment)
    found = rows(experiment)
    assert torch.equal(found[:4], before[:4])
    torch.testing.assert_close(found[5], before[:2].mean(0))  # x: a and b; e is not trained
    assert load_trained(experiment).item_vectors().shape[1] == len(LATER)
    recommender = Recommender.load(RunPaths.of(experiment).uri)
    listed = recommender.recommend(["a", "x"], top=7)["item_id"]
    assert sorted(listed) == LATER


def test_an_export_has_the_appended_rows_and_its_card_names_them(grown: Path) -> None:
    experiment = bert4rec(grown)
    write_run(experiment)
    write_later(grown)
    append(experiment)
    run, folder = RunPaths.of(experiment).uri, str(grown / "exported")
    export(run, folder)
    loaded, exported = Recommender.load(run), Recommender.load(folder)
    history = ["b", "y", "a"]
    assert exported.recommend(history, top=7).equals(loaded.recommend(history, top=7))
    card = (grown / "exported" / "README.md").read_text()
    assert "3 items got their rows after the training: 2 from their nearest" in card


def test_appending_twice_or_nothing_new_is_said(grown: Path) -> None:
    experiment = bert4rec(grown)
    write_run(experiment)
    append(experiment)
    uri = RunPaths.of(experiment).appended_weights
    content = files.read_bytes(uri)
    assert "appended before, for these weights and tables" in append(experiment)
    assert files.read_bytes(uri) == content
    write_later(grown)
    assert "3 items got their rows" in append(experiment)
    assert files.read_bytes(uri) != content
    assert "deleted" in undo(experiment)
    assert "nothing was appended" in undo(experiment)


def test_a_catalogue_that_was_trained_whole_needs_nothing(tmp_path: Path) -> None:
    write_catalogue(tmp_path, list("abcd"), [list("abcdab")], {"text": {}, "image": {}})
    experiment = experiment_on(tmp_path, "sasrec")
    write_run(experiment)
    assert "every item was trained" in append(experiment)
    assert not files.exists(RunPaths.of(experiment).appended_weights)


def test_a_model_without_weights_reads_the_tables_as_they_are(tmp_path: Path) -> None:
    write_first(tmp_path)
    experiment = experiment_on(tmp_path, "sasrec")
    content = {**experiment.resolved(), "model": {"name": "transitions"}, "name": "counted"}
    experiment = Experiment.model_validate(content)
    files.write_json(RunPaths.of(experiment).config, experiment.resolved())
    files.write_json(RunPaths.of(experiment).history, {})
    assert "has no weights" in append(experiment)


def test_rows_for_weights_that_were_replaced_are_refused_by_name(grown: Path) -> None:
    experiment = bert4rec(grown)
    write_run(experiment)
    append(experiment)
    write_run(experiment, seed=4)
    for open_run in (load_trained, describe_trained):
        with pytest.raises(InputError, match=r"appended.safetensors: rows of items for other weig"):
            open_run(experiment)
    undo(experiment)
    assert describe_trained(experiment).appended is None


def test_tables_that_change_again_need_another_append(grown: Path) -> None:
    experiment = bert4rec(grown)
    write_run(experiment)
    append(experiment)
    write_later(grown)
    with pytest.raises(InputError, match=r"trained on data set .*`mdsrec append CONFIG`"):
        describe_trained(experiment)
    append(experiment)
    record = files.read_json(RunPaths.of(experiment).dataset)  # of the training
    items = tables.open_table(tables.table_uri(str(grown), "items"))
    assert record["items"] != items.fingerprint
    assert describe_trained(experiment).num_items == 7


@pytest.mark.slow
def test_ranks_of_before_are_recognized_as_stale(grown: Path, shared_ray: None) -> None:
    experiment = bert4rec(grown)
    write_run(experiment)
    paths = RunPaths.of(experiment)
    evaluate(experiment)
    first = files.read_json(paths.metrics)
    append(experiment)
    evaluate(experiment)
    second = files.read_json(paths.metrics)
    assert (
        first["weights"] != second["weights"] == describe_weighted(experiment).weights_fingerprint
    )
    assert first["ranks"] != second["ranks"]
    page = (files.read_bytes(paths.report) or b"").decode()
    assert "1 items got their rows after the training" in page
    write_later(grown)
    append(experiment)
    evaluate(experiment)
    assert files.read_json(paths.metrics)["num_items"] == 7


HALF_WRITTEN = """
import os, signal, sys
from evaluation.__main__ import main
from training.warm import carry

def write(stream, tensors, metadata):
    stream.write(b"x" * 1000)
    stream.flush()
    os.kill(os.getpid(), signal.SIGKILL)

carry.write_checked = write
main(["append", sys.argv[1]])
"""


def test_an_append_that_is_killed_leaves_the_run_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_first(tmp_path)
    experiment = bert4rec(tmp_path)
    write_run(experiment)
    config, paths = toml_of(experiment, tmp_path), RunPaths.of(experiment)
    before = describe_trained(experiment)
    ended = subprocess.run([sys.executable, "-c", HALF_WRITTEN, config], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert not files.exists(paths.appended_weights)
    assert describe_trained(experiment) == before
    main(["append", config])  # its lease is free
    assert f"written     {paths.appended_weights}" in capsys.readouterr().out
    main(["append", config, "--undo"])
    assert describe_trained(experiment) == before
