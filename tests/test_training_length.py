"""A finished run that gets more epochs goes on as if it had them from the start."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from epoch_recorder import CPU
from gloo import on_ranks
from safetensors.torch import load_file
from small_dataset import small_experiment, write_dataset

from mdsrec import files
from mdsrec.config import Experiment
from mdsrec.config.loading import experiment_from
from mdsrec.errors import InputError
from mdsrec.run_paths import RunPaths
from training import run
from training.data.sequences import EpochPosition
from training.data.table_checks import check_item_tables
from training.inference import load_trained
from training.length import reopen
from training.lifecycle.identity import claim
from training.loop import train
from training.reporting import Reporter
from training.run import fit

EACH_STEP = 1e-9  # minutes between checkpoints
MEASURED = ("seconds", "prefixes_per_second", "memory")  # differ between equal runs
IMPROVES_UNTIL_2 = [0.1, 0.2, 0.3, 0.3, 0.2]  # validation ndcg@10 by epoch


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("root")
    write_dataset(small_experiment(root))
    return root


def named(root: Path, name: str, **train: Any) -> Experiment:
    """Return a run with dropout; its configuration has a linear decay of the learning rate."""
    sections: dict[str, Any] = {
        "model": {"dropout": 0.3},
        "optim": {"lr": 0.02, "decay": "linear", "decay_steps": 24},
        "train": {"batch_size": 60, **train},
    }
    resolved = small_experiment(root, **sections).resolved()
    return experiment_from({**resolved, "name": name}, source="test")


class Killer(Reporter):
    """A reporter that ends the process's training at a step of an epoch."""

    def __init__(self, epoch: int, step: int) -> None:
        self._place = epoch, step

    def report_step(self, epoch: int, position: EpochPosition) -> None:
        if (epoch, position.number) == self._place:
            raise InterruptedError


def train_all(runs: list[tuple[dict[str, Any], Any]]) -> list[int]:
    """Train each in turn, to its end or to the (epoch, step) at which it is killed.

    Returns their numbers of epochs.
    """
    num_epochs = []
    for resolved, kill in runs:
        experiment = experiment_from(resolved, "test")
        with suppress(InterruptedError):
            train(experiment, CPU, Killer(*kill) if kill else Reporter())
        num_epochs.append(len(files.read_json(RunPaths.of(experiment).history)["epochs"]))
    return num_epochs


def content(experiment: Experiment) -> dict[str, Any]:
    """Return what a training leaves, without measured times and sizes."""
    paths = RunPaths.of(experiment)
    history = files.read_json(paths.history)
    checkpoints = sorted(Path(paths.checkpoints).iterdir())
    found = {
        "history": without_measures(history),
        "best": load_file(paths.best_weights),
        "names": [checkpoint.name for checkpoint in checkpoints],
        "states": [
            without_measures(json.loads((checkpoint / "state.json").read_text())["state"])
            for checkpoint in checkpoints
        ],
        "tensors": [
            [load_file(file) for file in sorted(checkpoint.glob("*.safetensors"))]
            for checkpoint in checkpoints
        ],
    }
    return as_lists(found)


def without_measures(progress: dict[str, Any]) -> dict[str, Any]:
    """Return a history, or a checkpoint's state, without its date and what was measured."""
    epochs = [
        {name: value for name, value in epoch.items() if not name.startswith(MEASURED)}
        for epoch in progress["epochs"]
    ]
    kept = {name: value for name, value in progress.items() if name != "date"}
    return {**kept, "epochs": epochs}


def as_lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: as_lists(each) for key, each in value.items()}
    if isinstance(value, list):
        return [as_lists(each) for each in value]
    return value.tolist() if hasattr(value, "tolist") else value


@pytest.mark.parametrize(
    ("world_size", "stage", "kill"),
    [
        (1, 0, None),
        pytest.param(1, 0, (2, 3), marks=pytest.mark.slow),
        pytest.param(2, 1, (2, 3), marks=pytest.mark.slow),
        pytest.param(2, 2, (3, 1), marks=pytest.mark.slow),
        pytest.param(2, 3, (2, 3), marks=pytest.mark.slow),
    ],
)
def test_a_run_of_two_epochs_that_goes_on_to_four_equals_one_of_four(
    root: Path, world_size: int, stage: int, kill: tuple[int, int] | None
) -> None:
    def run_of(name: str, max_epochs: int, **train: Any) -> Experiment:
        name = f"{name}-{stage}{'-killed' if kill else ''}"
        return named(root, name, max_epochs=max_epochs, zero_stage=stage, **train)

    whole, longer = run_of("whole", 4), run_of("longer", 4)
    runs: list[Any] = [(whole.resolved(), None), (run_of("longer", 2).resolved(), None)]
    if kill:
        runs.append((run_of("longer", 4, checkpoint_minutes=EACH_STEP).resolved(), kill))
    num_epochs = on_ranks(world_size, train_all, [*runs, (longer.resolved(), None)])[0]
    assert num_epochs == ([4, 2, kill[0], 4] if kill else [4, 2, 4])
    expected = content(whole)
    assert expected["history"]["finished"]
    assert content(longer) == expected


@pytest.mark.slow
def test_a_run_that_ended_by_patience_goes_on_with_more_of_it(root: Path) -> None:
    whole = named(root, "patient", patience=4, max_epochs=12)
    shorter, longer = (named(root, "impatient", patience=n, max_epochs=12) for n in (1, 4))
    runs = [(each.resolved(), None) for each in (whole, shorter, longer)]
    ((num_whole, num_shorter, num_longer),) = on_ranks(1, train_all, runs)
    assert num_shorter < num_longer == num_whole
    assert content(longer) == content(whole)


def as_finished(experiment: Experiment, ndcg: list[float]) -> RunPaths:
    """Write the files of a finished run with these validation metrics; return their paths."""
    claim(experiment, check_item_tables(experiment))
    paths = RunPaths.of(experiment)
    history = {
        "best_epoch": ndcg.index(max(ndcg)),
        "epochs": [{"epoch": n, "ndcg@10": x, "recall@10": x} for n, x in enumerate(ndcg)],
        "num_parameters": 7,
        "finished": True,
    }
    files.write_json(paths.history, history)
    files.write_bytes(paths.best_weights, b"the weights")
    return paths


def test_a_finished_run_with_the_same_or_unreached_limits_is_trained_before(root: Path) -> None:
    finished = named(root, "same", max_epochs=9, patience=2)
    paths = as_finished(finished, IMPROVES_UNTIL_2)
    history = files.read_json(paths.history)
    for max_epochs in (9, 100):
        done = fit(named(root, "same", max_epochs=max_epochs, patience=2))
        assert not done.trained_now and done.history == history
        assert files.read_json(paths.config)["train"]["max_epochs"] == max_epochs


def test_fewer_epochs_leave_a_run_as_it_is_if_its_best_epoch_is_one_of_them(root: Path) -> None:
    paths = as_finished(named(root, "best-is-in", max_epochs=5), IMPROVES_UNTIL_2)
    history = files.read_json(paths.history)
    done = fit(named(root, "best-is-in", max_epochs=3))
    assert "(trained before)" in done.summary() and "epochs      5, best epoch 2" in done.summary()
    assert files.read_json(paths.history) == history


@pytest.mark.parametrize("load", [fit, load_trained], ids=["training", "evaluation"])
@pytest.mark.parametrize("limits", [{"max_epochs": 2}, {"patience": 1}], ids=str)
def test_fewer_epochs_than_up_to_the_best_one_are_refused(
    root: Path, limits: dict[str, int], load: Any
) -> None:
    asked = {"max_epochs": 5, **limits}
    name = f"best-is-later-{min(asked.values())}"
    paths = as_finished(named(root, name, max_epochs=5), [0.2, 0.1, 0.3, 0.1, 0.1])
    expected = (
        rf"^run {name} was trained for 5 epochs and has the weights of epoch 2, "
        rf"but train.max_epochs = {asked['max_epochs']} and train.patience = \d+ "
        r"end it after 2 epochs: raise them, choose another name, or train it again with --fresh$"
    )
    with pytest.raises(InputError, match=expected):
        load(named(root, name, **asked))
    assert files.read_json(paths.config)["train"]["max_epochs"] == 5


def test_a_finished_run_is_not_evaluated_as_a_longer_one(root: Path) -> None:
    as_finished(named(root, "short", max_epochs=5), IMPROVES_UNTIL_2)
    expected = "run short was finished after 5 epochs, .* let it go on: run `mdsrec train"
    with pytest.raises(InputError, match=expected):
        load_trained(named(root, "short", max_epochs=6))


def test_a_finished_run_without_its_checkpoints_cannot_go_on(root: Path) -> None:
    paths = as_finished(named(root, "bare", max_epochs=5), IMPROVES_UNTIL_2)
    with pytest.raises(InputError, match="bare was finished after 5 epochs and cannot go on, bec"):
        fit(named(root, "bare", max_epochs=6))
    assert files.read_json(paths.history)["finished"]


def test_a_run_that_goes_on_is_not_finished_until_it_ends_again(
    root: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished, longer = (named(root, "reopened", max_epochs=n) for n in (5, 6))
    paths = as_finished(finished, IMPROVES_UNTIL_2)
    caplog.set_level("INFO", "training")
    reopen(longer)
    claim(longer, check_item_tables(longer))
    assert not files.read_json(paths.history)["finished"]
    (line,) = [record.getMessage() for record in caplog.records]
    assert line == (
        "reopened was finished: it goes on from epoch 5, "
        "with train.max_epochs = 6 and train.patience = 10"
    )
    # It was killed before its sixth epoch ended. With five it is finished again.
    monkeypatch.setattr(run, "ray_session", None)  # no worker starts
    assert not fit(finished).trained_now
    assert files.read_json(paths.history)["finished"]
    assert files.read_json(paths.config) == finished.resolved()
