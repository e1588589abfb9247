"""An interrupted training continues from its last complete checkpoint and ends like one without an
interruption, or says in one line what to do.
"""

import errno
import json
import logging
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from epoch_recorder import CPU, EpochRecorder
from gloo import on_ranks
from safetensors.torch import load_file
from small_dataset import small_experiment, write_dataset
from torch import distributed

from mdsrec import files
from mdsrec.config.loading import experiment_from
from mdsrec.run_paths import RunPaths
from training import loop
from training.checkpoints import format
from training.checkpoints.manifest import find_damage
from training.distributed.control import CollectiveInputError
from training.lifecycle import signals
from training.lifecycle.lease import Attempt
from training.loop import AttemptResult, train
from training.progress import Progress
from training.reporting import Reporter

EACH_STEP = 1e-9  # minutes between checkpoints
SILENT = Reporter()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("root")
    write_dataset(small_experiment(root))
    return root


def resolved_run(root: Path, name: str, stage: int = 0, **train: Any) -> dict[str, Any]:
    """Return the resolved configuration of a run of two epochs."""
    sections = {"train": {"max_epochs": 2, "zero_stage": stage, **train}}
    return {**small_experiment(root, **sections).resolved(), "name": name}


def train_in_pieces(resolved: dict[str, Any], pieces: list[int]) -> list[list[float]]:
    """Train with an interruption after each of these numbers of steps, then to the end.

    Returns losses and validation metrics of each epoch. A piece saves after each step.
    """
    epochs: list[list[float]] = []
    for num_steps in pieces:
        train_piece(resolved, epochs, num_steps)
    train_piece(resolved, epochs)
    return epochs


def train_piece(resolved: dict[str, Any], epochs: list[list[float]], num_steps: int = 0) -> None:
    """Train for so many steps, or to the end for 0; add the metrics of each epoch to `epochs`."""
    minutes = EACH_STEP if num_steps else 30.0
    resolved = {**resolved, "train": {**resolved["train"], "checkpoint_minutes": minutes}}
    experiment = experiment_from(resolved, source="test")
    steps_taken, take_step = 0, loop.take_step

    def interrupted(*arguments: Any) -> Any:
        nonlocal steps_taken
        if num_steps and steps_taken == num_steps:
            raise InterruptedError
        steps_taken += 1
        return take_step(*arguments)

    recorder = EpochRecorder()
    loop.take_step = interrupted
    try:
        train(experiment, CPU, recorder)
    except InterruptedError:
        pass
    finally:
        loop.take_step = take_step
        for metrics in recorder.epochs:
            epochs.append([v for k, v in metrics.items() if "loss" in k or "@" in k])


def paths_of(resolved: dict[str, Any]) -> RunPaths:
    return RunPaths.of(experiment_from(resolved, source="test"))


def checkpoints(resolved: dict[str, Any]) -> list[Path]:
    return sorted(Path(paths_of(resolved).checkpoints).iterdir())


def assert_same_weights(resolved: dict[str, Any], other: dict[str, Any], atol: float) -> None:
    found, expected = (load_file(paths_of(run).best_weights) for run in (resolved, other))
    assert found.keys() == expected.keys()
    for name in found:
        torch.testing.assert_close(found[name], expected[name], atol=atol, rtol=0)


def train_both(resolved: dict[str, Any], other: dict[str, Any], pieces: list[int]) -> list[Any]:
    return [train_in_pieces(resolved, []), train_in_pieces(other, pieces)]


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 2, 3])
def test_a_run_killed_within_its_epochs_equals_one_never_killed(root: Path, stage: int) -> None:
    whole = resolved_run(root, f"whole-{stage}", stage)
    killed = resolved_run(root, f"killed-{stage}", stage)
    for expected, found in on_ranks(2, train_both, whole, killed, [3, 9, 1]):
        assert len(expected) == 2
        torch.testing.assert_close(torch.tensor(found), torch.tensor(expected), atol=1e-9, rtol=0)
    assert_same_weights(killed, whole, atol=0)
    assert [path.name[:5] for path in checkpoints(killed)] == ["00001", "00002"]
    history = files.read_json(paths_of(killed).history)
    assert history["finished"] and history["epochs"][1]["learning_rate"] == 0.01


def train_with_damage(
    resolved: dict[str, Any], how: str, whole: dict[str, Any] | None = None
) -> Any:
    """Train `whole` without interruption, then another run whose newest checkpoint gets damaged.

    Returns the epochs of both, and the log lines of the second.
    """
    expected = train_in_pieces(whole, []) if whole else []
    lines, signals.LOG_SECONDS = log_lines(), 0.0
    epochs: list[list[float]] = []
    train_piece(resolved, epochs, 8)
    distributed.barrier()
    if distributed.get_rank() == 0:
        older, newest = checkpoints(resolved)
        damage(newest / "state.json", how)
        if how == "both":
            damage(older / "state.json", how)
    distributed.barrier()
    try:
        train_piece(resolved, epochs)
    except CollectiveInputError as error:
        lines.append(str(error))
    return [expected, epochs, lines]


def damage(file: Path, how: str) -> None:
    content = file.read_bytes()
    file.write_bytes(content[:9] if how == "truncated" else content.replace(b"0", b"1"))


def log_lines() -> list[str]:
    """Return a list to which the log lines of the training are added from now on."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("training").addHandler(handler)
    logging.getLogger("training").setLevel(logging.INFO)
    return lines


@pytest.mark.slow
def test_a_truncated_checkpoint_is_named_and_the_one_before_it_used(root: Path) -> None:
    whole, torn = resolved_run(root, "not-torn"), resolved_run(root, "torn")
    ((expected, found, lines), _) = on_ranks(2, train_with_damage, torn, "truncated", whole)
    assert found == expected
    assert_same_weights(torn, whole, atol=0)
    (skipped,) = [line for line in lines if "is skipped" in line]
    assert "checkpoint 00000-0000000008 is skipped: " in skipped
    uri = paths_of(torn).checkpoints
    assert f"{uri}/00000-0000000008/state.json has 9 bytes, " in skipped
    resumed, progress = lines[lines.index(skipped) + 1 :][:2]
    assert "resumed at epoch 0, step 7 of about" in resumed
    pattern = r"epoch   0  step 8 of about \d+  loss \d\.\d+  [\d,]+ prefixes/s  \d+ s left"
    assert re.fullmatch(pattern, progress)


@pytest.mark.slow
def test_a_run_continues_on_another_number_of_workers(root: Path) -> None:
    moving = resolved_run(root, "moves", stage=2)
    on_ranks(2, train_piece, moving, [], 5)
    assert checkpoints(moving)[-1].name == "00000-0000000005"
    ((expected, found),) = on_ranks(1, train_both, resolved_run(root, "stays"), moving, [])
    torch.testing.assert_close(torch.tensor(found), torch.tensor(expected), atol=1e-5, rtol=0)


def test_a_run_with_only_damaged_checkpoints_ends_with_one_line(root: Path) -> None:
    _, _, lines = on_ranks(1, train_with_damage, resolved_run(root, "lost"), "both")[0]
    assert lines[-1].endswith("every checkpoint is damaged: train from the start with --fresh")
    assert sum("has the checksum" in line for line in lines) == 2


def test_the_progress_in_a_checkpoint_keeps_its_keys(root: Path) -> None:
    """Checkpoints are read by later releases."""
    resolved = resolved_run(root, "keys")
    on_ranks(1, train_piece, resolved, [], 5)
    state = json.loads((checkpoints(resolved)[-1] / "state.json").read_text())["state"]
    assert list(state) == ["next_epoch", "best_epoch", "epochs", "partial", "dataset"]
    assert list(state["partial"]) == ["place", "prefixes", "losses", "seconds"]
    _, _, number, share = state["partial"]["place"]
    assert number == 5 and 0 < share < 1
    del state["dataset"]  # of its tables
    assert json.loads(json.dumps(Progress.from_state(state).state())) == state


def train_on_full_disk(resolved: dict[str, Any], rank: int, first: int, last: int) -> Any:
    """Train while the disk of a rank has no space for checkpoints `first` to `last`."""
    lines, write, num_writes = log_lines(), format.write_tensors, 0

    def failing(*arguments: Any) -> None:
        nonlocal num_writes
        num_writes += 1
        if first <= num_writes <= last and distributed.get_rank() == rank:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(*arguments)

    format.write_tensors = failing
    epochs: list[list[float]] = []
    try:
        train_piece(resolved, epochs, 10**9)  # it saves after each step
    except CollectiveInputError as error:
        lines.append(str(error))
    return [epochs, lines]


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_disk_that_is_full_for_a_while_costs_a_checkpoint(root: Path, rank: int) -> None:
    full = resolved_run(root, f"full-{rank}", stage=2, max_epochs=1)
    epochs, lines = on_ranks(2, train_on_full_disk, full, rank, 3, 4)[0]
    assert len(epochs) == 1
    reason = "No space left on device" if rank == 0 else "another worker could not write its part"
    (line,) = [line for line in lines if "could not be written" in line][:1]
    assert reason in line and line.endswith("training continues and tries again later")


def test_a_disk_that_stays_full_ends_training_and_keeps_the_checkpoint(root: Path) -> None:
    full = resolved_run(root, "stays-full")
    _, lines = on_ranks(1, train_on_full_disk, full, 0, 6, 10**9)[0]
    assert "No space left on device): free disk space, then run the same command" in lines[-1]
    assert [path.name for path in checkpoints(full)] == ["00000-0000000004", "00000-0000000005"]
    assert [find_damage(str(path)) for path in checkpoints(full)] == [None, None]


def error_of_diverging(resolved: dict[str, Any], bad_step: int) -> str:
    """Train with weights that become NaN on rank 0 before a step; return the error."""
    take_step, steps_taken = loop.take_step, 0

    def poisoned(engine: Any, *arguments: Any) -> Any:
        nonlocal steps_taken
        steps_taken += 1
        if steps_taken == bad_step and distributed.get_rank() == 0:
            with torch.no_grad():
                engine.module.item_embedding.fill_(torch.nan)
        return take_step(engine, *arguments)

    loop.take_step = poisoned
    with pytest.raises(CollectiveInputError) as error:
        train(experiment_from(resolved, source="test"), CPU, SILENT)
    return str(error.value)


def test_a_loss_that_is_not_finite_ends_training_before_it_is_saved(root: Path) -> None:
    resolved = resolved_run(root, "diverging", checkpoint_minutes=EACH_STEP)
    for error in on_ranks(2, error_of_diverging, resolved, 6):
        assert "the loss of channel fused is not finite at epoch 0, step 6, " in error
        assert "learning rate 0.01: lower optim.lr or set optim.grad" in error
    assert [path.name[-2:] for path in checkpoints(resolved)] == ["04", "05"]


def test_a_loss_that_is_not_finite_is_found_at_the_end_of_the_epoch_with_its_step(
    root: Path,
) -> None:
    resolved = resolved_run(root, "diverging-unseen")
    (error,) = on_ranks(1, error_of_diverging, resolved, 6)
    assert "the loss of channel fused is not finite at epoch 0, step 6," in error
    assert not Path(paths_of(resolved).uri).exists()


def results_with_stops(resolved: dict[str, Any]) -> Any:
    """Train three times: with a stop request at the start, with a rank that leaves, to the end."""
    experiment = experiment_from(resolved, source="test")
    rank = distributed.get_rank()
    stop_file = Path(RunPaths.of(experiment).stop)
    stop_file.parent.mkdir(parents=True, exist_ok=True)
    stop_file.touch()
    stopped = train(experiment, CPU, SILENT)
    distributed.barrier()
    stop_file.unlink(missing_ok=True)
    left = train(experiment, CPU, SILENT, lambda: rank == 1)
    return [list(result) for result in (stopped, left, train(experiment, CPU, SILENT))]


@pytest.mark.slow
def test_a_training_that_is_stopped_saves_its_position(root: Path) -> None:
    resolved = resolved_run(root, "stopped", max_epochs=8)
    for results in on_ranks(2, results_with_stops, resolved):
        stopped, left, finished = (AttemptResult(*result) for result in results)
        assert not stopped.finished and not stopped.restart and stopped.is_saved
        assert not left.finished and left.restart and left.is_saved
        assert stopped.position.startswith("epoch ") and left.position.startswith("epoch ")
        assert stopped.position != left.position
        assert finished == AttemptResult(finished=True)


HEARTBEAT_OF_ANOTHER = {"host": "other", "pid": 7, "token": "new"}


def error_of_lost_lease(resolved: dict[str, Any]) -> str:
    """Train a run whose lease another driver holds; return the error."""
    experiment = experiment_from(resolved, source="test")
    files.write_json(RunPaths.of(experiment).lease, HEARTBEAT_OF_ANOTHER)
    with pytest.raises(CollectiveInputError) as error:
        train(experiment, CPU, SILENT, attempt=Attempt("old", 1))
    return str(error.value)


def test_a_training_that_lost_the_lease_ends_without_a_write(root: Path) -> None:
    resolved = resolved_run(root, "taken-over", max_epochs=99, patience=99)
    for error in on_ranks(2, error_of_lost_lease, resolved):
        assert "taken-over: another driver or attempt has taken over this run" in error
    assert not list(Path(paths_of(resolved).uri).glob("checkpoints/*"))


def error_of_lease_lost_in_validation(resolved: dict[str, Any]) -> str:
    experiment = experiment_from(resolved, source="test")
    validate = loop.validate
    signals.STORAGE_SECONDS = 1000.0  # storage is checked at the start, and before each write

    def validate_and_lose_the_lease(*arguments: Any) -> Any:
        files.write_json(RunPaths.of(experiment).lease, HEARTBEAT_OF_ANOTHER)
        return validate(*arguments)

    loop.validate = validate_and_lose_the_lease
    with pytest.raises(CollectiveInputError) as error:
        train(experiment, CPU, SILENT, attempt=Attempt("old", 1))
    return str(error.value)


@pytest.mark.slow
def test_a_run_whose_lease_is_lost_during_validation_is_not_written_after_it(root: Path) -> None:
    resolved = resolved_run(root, "taken-over-late")
    for error in on_ranks(2, error_of_lease_lost_in_validation, resolved):
        assert "another driver or attempt has taken over this run" in error
    assert not Path(paths_of(resolved).uri).exists()
