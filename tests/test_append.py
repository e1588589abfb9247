"""Items that a run was not trained on get rows, and are ranked, recommended and exported."""

from pathlib import Path

import pytest
import torch
from catalogues import experiment_on, write_catalogue, write_run
from half_written import run_until_killed
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
from mdsrec.jobs.promises import promised
from mdsrec.run_paths import RunPaths, run_fingerprints
from mdsrec.table_settings import run_table_fingerprints
from training.checkpoints.stored_weights import StoredWeights
from training.inference import load_trained
from training.models.registry import MODELS
from training.trained_run import TrainedRun, describe_trained
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


APPEND = """
from evaluation.__main__ import main
main(["append", sys.argv[1]])
"""


def test_an_append_that_is_killed_leaves_the_run_as_it_was_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first one, and one that would replace the rows of a former one."""
    root = tmp_path / "root"
    write_first(root)
    experiment = bert4rec(root)
    write_run(experiment)
    config, paths = toml_of(experiment, tmp_path), RunPaths.of(experiment)
    files.write_json(paths.dataset, run_table_fingerprints(experiment))
    trained = described(experiment)
    for write_tables, num_items in ((write_first, 5), (write_later, 7)):
        write_tables(root)
        run_until_killed(APPEND, config)
        assert not files.exists(paths.appended_weights)
        assert described(experiment) == trained
        main(["append", config])  # its lease is free
        assert f"written     {paths.appended_weights}" in capsys.readouterr().out
        assert described(experiment).num_items == num_items
    main(["append", config, "--undo"])
    assert described(experiment) == trained


def described(experiment: Experiment) -> TrainedRun:
    """Describe a run on the tables that its weights are for."""
    with promised(run_fingerprints(experiment)):
        return describe_trained(experiment)


def test_a_run_is_given_by_its_folder_whatever_its_file_says_now(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_first(tmp_path)
    experiment = bert4rec(tmp_path)
    write_run(experiment)
    run = RunPaths.of(experiment).uri
    changed = toml_of(experiment.model_copy(update={"seed": 5}), tmp_path)
    with pytest.raises(InputError, match=r"run bert4rec has another configuration .seed changed"):
        main(["append", changed])
    main(["append", f"{run}/", "eval.num_workers=2"])
    said = capsys.readouterr().out
    assert "1 items got their rows after the training" in said
    assert said.splitlines()[-1].endswith(f"{run}/ eval.num_workers=2")
    with pytest.raises(InputError, match=r"runs/gone: no such configuration"):
        main(["append", f"{tmp_path}/runs/gone"])
    with pytest.raises(InputError, match=r"command line: unknown key model.dims"):
        main(["append", run, "model.dims=8"])


def test_a_run_may_have_been_moved_with_its_root(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_first(tmp_path / "root")
    experiment = bert4rec(tmp_path / "root")
    write_run(experiment)
    (tmp_path / "root").rename(tmp_path / "moved")
    run = RunPaths(f"{tmp_path}/moved/runs/{experiment.name}")
    main(["append", run.uri])
    assert f"written     {run.appended_weights}" in capsys.readouterr().out
