"""Stages whose inputs another job replaces: refused by name, never mixed."""

import json
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from epoch_recorder import CPU
from evaluated_runs import RANKS, write_run
from gloo import on_ranks
from random_runs import TWO_USERS, run_of, write_weights
from raw_catalogue import small_toml, write_raw
from small_dataset import small_experiment, write_dataset

from evaluation import run as evaluation_run
from evaluation.channel_weights import describe_weighted
from evaluation.compare import compare_runs
from evaluation.metrics.run_metrics import RunMetrics
from evaluation.run import evaluate, rank_all, ranks_recipe
from evaluation.workers import RankWorker
from mdsrec import files, schema, tables
from mdsrec.config import Experiment
from mdsrec.config.loading import experiment_from, load_experiment
from mdsrec.errors import InputError
from mdsrec.jobs import promises
from mdsrec.jobs.promises import promised
from mdsrec.run_paths import RunPaths, run_fingerprints
from mdsrec.table_settings import stored_fingerprints
from mdsrec.tables import Recipe
from training.loop import train
from training.reporting import Reporter
from tuning.builder import TableBuilder
from tuning.stages import RunSpec


class Killed(Reporter):
    """A reporter that ends the training after its first epoch."""

    def report_epoch(self, figures: dict[str, float]) -> None:
        if figures["epoch"] == 0:
            raise InterruptedError


def train_on_other_tables(resolved: dict[str, Any]) -> list[str]:
    """Train, replace the tables, and train on twice -> the errors.

    The second time the worker gets the fingerprints that its driver claimed.
    """
    experiment = experiment_from(resolved, "test")
    write_dataset(experiment)
    claimed = stored_fingerprints(experiment)
    with suppress(InterruptedError):
        train(experiment, CPU, Killed())
    write_dataset(experiment, seed=1)
    errors = []
    for fingerprints in ({}, claimed):
        with pytest.raises(ValueError) as raised, promised(fingerprints):
            train(experiment, CPU, Reporter())
        errors.append(str(raised.value))
    return errors


def test_a_training_whose_tables_were_replaced_never_goes_on_with_others(tmp_path: Path) -> None:
    resolved = small_experiment(tmp_path, train={"batch_size": 60}).resolved()
    [[of_checkpoint, of_table]] = on_ranks(1, train_on_other_tables, resolved)
    assert of_checkpoint.startswith("run small: its checkpoint 00001-0000000000 is of data set ")
    assert of_checkpoint.endswith("choose another name, or train it again with --fresh")
    uri = tables.table_uri(str(tmp_path), "sequences")
    assert of_table.startswith(f"{uri}: replaced by another job meanwhile (this one began with ")
    history = json.loads((tmp_path / "runs/small/history.json").read_text())
    assert len(history["epochs"]) == 1  # of the first tables only
    assert (history["user_batch"], history["item_block"]) == (7, 16)  # of the validation


def test_figures_of_other_ranks_than_those_beside_them_are_not_compared(tmp_path: Path) -> None:
    """As an evaluation with other settings leaves them that is stopped before its metrics."""
    first, other = (write_run(tmp_path, name) for name in ("a", "b"))
    compare_runs([first, other])
    metrics = RunPaths(other).metrics
    files.write_json(metrics, {**files.read_json(metrics), "ranks": "0123456789abcdef"})
    line = rf"{other}/ranks: holds ranks {RANKS[:8]}, but metrics.json .* from ranks 01234567: an "
    with pytest.raises(InputError, match=line):
        compare_runs([first, other])


@pytest.fixture
def trained(tmp_path: Path) -> Experiment:
    experiment = small_experiment(tmp_path, eval=TWO_USERS)
    write_dataset(experiment)
    write_weights(experiment, seed=1)
    return experiment


@pytest.mark.ray
@pytest.mark.slow
def test_an_evaluation_writes_no_figures_of_ranks_that_another_job_made(
    trained: Experiment, shared_ray: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other job, with other [eval] keys, is on a machine that does not see the lease."""
    other = small_experiment(Path(trained.root), eval={**TWO_USERS, "exclude_seen": True})
    case_study = evaluation_run.case_study

    def after_the_other(*arguments: Any) -> Any:
        described = describe_weighted(other)
        with monkeypatch.context() as elsewhere:
            elsewhere.setattr("mdsrec.jobs.promises.check", lambda *_: None)
            rank_all(other, described, ranks_recipe(other, described))
        return case_study(*arguments)

    monkeypatch.setattr(evaluation_run, "case_study", after_the_other)
    with pytest.raises(InputError, match=f"{run_of(trained)}/ranks: replaced by another job"):
        evaluate(trained)
    assert not Path(RunPaths.of(trained).metrics).exists()
    monkeypatch.undo()
    evaluate(trained)
    metrics = RunMetrics.read(RunPaths.of(trained).metrics)
    assert metrics.ranks == tables.open_table(f"{run_of(trained)}/ranks").fingerprint
    assert not metrics.exclude_seen and not Path(f"{run_of(trained)}.evaluation").exists()


def test_an_actor_refuses_weights_and_tables_other_than_those_of_its_driver(
    trained: Experiment,
) -> None:
    with promised(run_fingerprints(trained)):
        weight_of, claimed = describe_weighted(trained).weight_of, promises.current()
    with promised({}):
        assert RankWorker(trained, weight_of, None, claimed).trained
    write_weights(trained, seed=2)
    with (
        pytest.raises(InputError, match=r"best\.safetensors: replaced by another job"),
        promised({}),
    ):
        assert RankWorker(trained, weight_of, None, claimed).trained
    write_dataset(trained, seed=1)
    with pytest.raises(InputError, match="sequences: replaced by another job"), promised({}):
        assert RankWorker(trained, weight_of, None, claimed).trained


def test_trials_of_a_sweep_have_the_same_tables_also_when_it_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = small_experiment(tmp_path, model={"memory": False})
    uri, seeds = str(tmp_path / "sweeps/small"), [0]

    def build(*_: Any, **__: Any) -> None:
        write_dataset(experiment, seed=seeds[0])

    monkeypatch.setattr(RunSpec, "run_stage", build)
    built = TableBuilder(".", uri).build("small.toml", [], experiment)
    assert "neighbors/text/mu=0.2" in built.names
    assert built.fingerprints == stored_fingerprints(experiment)
    write_dataset(experiment, seed=1)  # another job; the ETL of the next trial repairs it
    resumed = TableBuilder(".", uri)
    assert resumed.build("small.toml", [], experiment).fingerprints == built.fingerprints
    assert resumed.build("small.toml", [], experiment).names == []
    write_dataset(experiment, seed=1)
    seeds[0] = 1  # the input has changed
    with pytest.raises(InputError, match=rf"{uri}: its data set has changed \(.*items, .*choose"):
        resumed.build("small.toml", [], experiment)


def test_an_etl_holds_what_it_writes_and_refuses_what_another_one_replaced(tmp_path: Path) -> None:
    from etl.builders.workspace import Workspace
    from etl.leases import only_writer
    from etl.run import _build_outdated
    from etl.status import Build

    write_raw(tmp_path, users=20, items=10)
    space = Workspace(load_experiment(small_toml(tmp_path, "")))
    for name, recipe in space.recipes.items():
        if name != "items":
            tables.write_table(space.uri(name), [], schema.CENTERS, recipe)
    lease = Path(f"{space.uri('items')}.writer")
    with only_writer(space) as leased:
        assert leased == {"items"} and lease.exists()
        manifest = f"{space.uri('sequences')}/{tables.MANIFEST}"
        other = Recipe({"k_core": 9}, {}).fingerprint
        files.write_json(manifest, {**files.read_json(manifest), "fingerprint": other})
        line = f"{space.uri('sequences')}: replaced by another job .* it is now {other[-8:]}"
        with pytest.raises(InputError, match=line):
            space.manifest("sequences")
        with pytest.raises(InputError, match=line):
            _build_outdated(space, leased, Build(), {"sequences": space.close})  # type: ignore[dict-item]
    assert not lease.exists()


def test_an_etl_waits_for_another_one_and_finds_its_tables_up_to_date(tmp_path: Path) -> None:
    from etl.builders.workspace import Workspace
    from etl.leases import only_writer

    write_raw(tmp_path, users=20, items=10)
    spaces = [Workspace(load_experiment(small_toml(tmp_path, ""))) for _ in range(2)]
    found: list[frozenset[str]] = []

    def second() -> None:
        with only_writer(spaces[1]):
            found.append(spaces[1].outdated())

    with only_writer(spaces[0]) as leased:
        assert leased == spaces[0].recipes.keys()
        waiting = threading.Thread(target=second)
        waiting.start()
        for name, recipe in spaces[0].recipes.items():
            tables.write_table(spaces[0].uri(name), [], schema.CENTERS, recipe)
        assert not found
    waiting.join()
    assert found == [frozenset()]
