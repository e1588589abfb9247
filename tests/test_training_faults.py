"""An interrupted run goes on from its last whole checkpoint and ends as one that nothing
interrupted, or says in one line what to mend.
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
from gloo import on_ranks
from safetensors.torch import load_file
from small_dataset import small_experiment, write_dataset
from torch import distributed

from mdsrec import files
from mdsrec.config.loading import experiment_from
from mdsrec.table_names import run_uri
from training import loop
from training.checkpoints import format
from training.checkpoints.manifest import damage_of
from training.distributed.control import JointError
from training.lifecycle import signals
from training.lifecycle.lease import Attempt, writer_uri
from training.lifecycle.stopping import stop_uri
from training.loop import Ending, train

CPU = torch.device("cpu")
EACH_STEP = 1e-9  # minutes


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("root")
    write_dataset(small_experiment(root))
    return root


def named(root: Path, name: str, stage: int = 0, **train: Any) -> dict[str, Any]:
    """A run of two epochs, resolved."""
    sections = {"train": {"max_epochs": 2, "zero_stage": stage, **train}}
    return {**small_experiment(root, **sections).resolved(), "name": name}


def in_pieces(resolved: dict[str, Any], pieces: list[int]) -> list[list[float]]:
    """Losses of each epoch of a training that dies after each of these numbers of steps, saving
    after each step, and starts again, the last time to its end.
    """
    seen: list[list[float]] = []
    for num_steps in pieces:
        piece(resolved, seen, num_steps)
    piece(resolved, seen)
    return seen


def piece(resolved: dict[str, Any], seen: list[list[float]], num_steps: int = 0) -> None:
    """Add to `seen` what a training reports that dies after so many steps; 0 is to its end."""
    minutes = EACH_STEP if num_steps else 30.0
    resolved = {**resolved, "train": {**resolved["train"], "checkpoint_minutes": minutes}}
    experiment = experiment_from(resolved, source="test")
    taken, take_step = 0, loop.take_step

    def mortal(*arguments: Any) -> Any:
        nonlocal taken
        if num_steps and taken == num_steps:
            raise InterruptedError
        taken += 1
        return take_step(*arguments)

    def report(metrics: dict[str, float]) -> None:
        seen.append([v for k, v in metrics.items() if "loss" in k or "@" in k])

    loop.take_step = mortal
    try:
        train(experiment, CPU, report)
    except InterruptedError:
        pass
    finally:
        loop.take_step = take_step


def weights(resolved: dict[str, Any]) -> dict[str, torch.Tensor]:
    return load_file(f"{run_of(resolved)}/best.safetensors")


def run_of(resolved: dict[str, Any]) -> Path:
    return Path(run_uri(experiment_from(resolved, source="test")))


def checkpoints(resolved: dict[str, Any]) -> list[Path]:
    return sorted((run_of(resolved) / "checkpoints").iterdir())


def assert_same_run(resolved: dict[str, Any], other: dict[str, Any], atol: float) -> None:
    found, expected = weights(resolved), weights(other)
    assert found.keys() == expected.keys()
    for name in found:
        torch.testing.assert_close(found[name], expected[name], atol=atol, rtol=0)


def both(resolved: dict[str, Any], other: dict[str, Any], pieces: list[int]) -> list[Any]:
    return [in_pieces(resolved, []), in_pieces(other, pieces)]


@pytest.mark.parametrize(
    "stage", [pytest.param(0, marks=pytest.mark.slow), 2, pytest.param(3, marks=pytest.mark.slow)]
)
def test_a_run_killed_in_its_epochs_equals_one_never_killed(root: Path, stage: int) -> None:
    whole, killed = named(root, f"whole-{stage}", stage), named(root, f"killed-{stage}", stage)
    for expected, found in on_ranks(2, both, whole, killed, [3, 9, 1]):
        assert len(expected) == 2
        torch.testing.assert_close(torch.tensor(found), torch.tensor(expected), atol=1e-9, rtol=0)
    assert_same_run(killed, whole, atol=0)
    assert [path.name[:5] for path in checkpoints(killed)] == ["00001", "00002"]
    history = json.loads((run_of(killed) / "history.json").read_text())
    assert history["finished"] and history["epochs"][1]["learning_rate"] == 0.01


def with_damage(resolved: dict[str, Any], how: str, whole: dict[str, Any] | None = None) -> Any:
    """A run whose newest checkpoint is damaged between two attempts; what it said of it. Before
    it, one that nothing interrupts.
    """
    expected = in_pieces(whole, []) if whole else []
    said, signals.LINE_EVERY = lines(), 0.0
    seen: list[list[float]] = []
    piece(resolved, seen, 8)
    distributed.barrier()
    if distributed.get_rank() == 0:
        older, newest = checkpoints(resolved)
        damage(newest / "state.json", how)
        if how == "both":
            damage(older / "state.json", how)
    distributed.barrier()
    try:
        piece(resolved, seen)
    except JointError as error:
        said.append(str(error))
    return [expected, seen, said]


def damage(file: Path, how: str) -> None:
    content = file.read_bytes()
    file.write_bytes(content[:9] if how == "truncated" else content.replace(b"0", b"1"))


def lines() -> list[str]:
    """What training logs from now on."""
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("training").addHandler(handler)
    logging.getLogger("training").setLevel(logging.INFO)
    return said


def test_a_truncated_checkpoint_is_named_and_the_one_before_it_used(root: Path) -> None:
    whole, torn = named(root, "not-torn"), named(root, "torn")
    ((expected, found, said), _) = on_ranks(2, with_damage, torn, "truncated", whole)
    assert found == expected
    assert_same_run(torn, whole, atol=0)
    (refused,) = [line for line in said if "refused" in line]
    assert "checkpoint 00000-0000000008 is refused: " in refused
    assert f"{run_of(torn)}/checkpoints/00000-0000000008/state.json has 9 bytes, " in refused
    resumed, line = said[said.index(refused) + 1 :][:2]
    assert "resumed at epoch 0, step 7 of about" in resumed
    pattern = r"epoch   0  step 8 of about \d+  loss \d\.\d+  [\d,]+ prefixes/s  \d+ s left"
    assert re.fullmatch(pattern, line)


def test_a_run_goes_on_with_other_workers_where_it_stopped(root: Path) -> None:
    moving = named(root, "moves", stage=2)
    on_ranks(2, piece, moving, [], 5)
    assert checkpoints(moving)[-1].name == "00000-0000000005"
    ((expected, found),) = on_ranks(1, both, named(root, "stays"), moving, [])
    torch.testing.assert_close(torch.tensor(found), torch.tensor(expected), atol=1e-5, rtol=0)


def test_a_run_with_damaged_checkpoints_alone_ends_with_one_line(root: Path) -> None:
    _, _, said = on_ranks(1, with_damage, named(root, "lost"), "both")[0]
    assert said[-1].endswith("every checkpoint is damaged: train the run anew with --fresh")
    assert sum("has the checksum" in line for line in said) == 2


def on_a_full_disk(resolved: dict[str, Any], rank: int, first: int, last: int) -> Any:
    """A training in which checkpoints first ... last do not fit on a rank's disk."""
    said, write, asked = lines(), format.write_tensors, 0

    def failing(*arguments: Any) -> None:
        nonlocal asked
        asked += 1
        if first <= asked <= last and distributed.get_rank() == rank:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(*arguments)

    format.write_tensors = failing
    seen: list[list[float]] = []
    try:
        piece(resolved, seen, 10**9)  # saving after each step
    except JointError as error:
        said.append(str(error))
    return [seen, said]


@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_disk_that_is_full_for_a_while_costs_a_checkpoint(root: Path, rank: int) -> None:
    full = named(root, f"full-{rank}", stage=2, max_epochs=1)
    found, said = on_ranks(2, on_a_full_disk, full, rank, 3, 4)[0]
    assert len(found) == 1
    reason = "No space left on device" if rank == 0 else "another worker could not write its part"
    (line,) = [line for line in said if "could not be written" in line][:1]
    assert reason in line and line.endswith("training goes on and tries again later")


def test_a_disk_that_stays_full_ends_training_and_keeps_the_checkpoint(root: Path) -> None:
    full = named(root, "stays-full")
    _, said = on_ranks(1, on_a_full_disk, full, 0, 6, 10**9)[0]
    assert "No space left on device): make room, then run the same command" in said[-1]
    assert [path.name for path in checkpoints(full)] == ["00000-0000000004", "00000-0000000005"]
    assert [damage_of(str(path)) for path in checkpoints(full)] == [None, None]


def diverging(resolved: dict[str, Any], bad_step: int) -> Any:
    """What a training says whose weights are NaN before a step, on rank 0."""
    take_step, taken = loop.take_step, 0

    def poisoned(engine: Any, *arguments: Any) -> Any:
        nonlocal taken
        taken += 1
        if taken == bad_step and distributed.get_rank() == 0:
            with torch.no_grad():
                engine.module.item_embedding.fill_(torch.nan)
        return take_step(engine, *arguments)

    loop.take_step = poisoned
    with pytest.raises(JointError) as error:
        train(experiment_from(resolved, source="test"), CPU, lambda metrics: None)
    return str(error.value)


def test_a_loss_that_is_no_number_ends_training_before_it_is_saved(root: Path) -> None:
    resolved = named(root, "diverging", checkpoint_minutes=EACH_STEP)
    for said in on_ranks(2, diverging, resolved, 6):
        assert "the loss of channel fused is no number" in said
        assert "at epoch 0, step 6, learning rate 0.01: lower optim.lr or set optim.grad" in said
    assert [path.name[-2:] for path in checkpoints(resolved)] == ["04", "05"]


def test_a_loss_that_is_no_number_is_found_at_the_epochs_end_with_its_step(root: Path) -> None:
    resolved = named(root, "diverging-unseen")
    (said,) = on_ranks(1, diverging, resolved, 6)
    assert "the loss of channel fused is no number" in said and "epoch 0, step 6," in said
    assert not run_of(resolved).exists()


def called_off(resolved: dict[str, Any]) -> Any:
    """Endings of a training that is asked to stop as it starts, then one rank of which leaves, and
    then goes on.
    """
    experiment = experiment_from(resolved, source="test")
    rank = distributed.get_rank()
    file = Path(stop_uri(run_uri(experiment)))
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()
    stopped = train(experiment, CPU, lambda metrics: None)
    distributed.barrier()
    file.unlink(missing_ok=True)
    left = train(experiment, CPU, lambda metrics: None, lambda: rank == 1)
    return [list(e) for e in (stopped, left, train(experiment, CPU, lambda metrics: None))]


def test_a_training_that_is_called_off_saves_where_it_is(root: Path) -> None:
    resolved = named(root, "called-off", max_epochs=8)
    for stopped, left, finished in on_ranks(2, called_off, resolved):
        assert stopped[:2] == [False, False] and stopped[3]
        assert left[:2] == [False, True] and left[3]
        assert stopped[2].startswith("epoch ") and left[2].startswith("epoch ")
        assert stopped[2] != left[2]
        assert finished == list(Ending(True))


def taken_over(resolved: dict[str, Any]) -> str:
    """What a training says whose run another driver writes."""
    experiment = experiment_from(resolved, source="test")
    sign = {"host": "other", "pid": 7, "token": "new"}
    files.write_json(writer_uri(run_uri(experiment)), sign)
    with pytest.raises(JointError) as error:
        train(experiment, CPU, lambda metrics: None, attempt=Attempt("old", 1))
    return str(error.value)


def test_a_training_whose_run_another_driver_took_over_ends_without_a_write(root: Path) -> None:
    resolved = named(root, "taken-over", max_epochs=99, patience=99)
    for said in on_ranks(2, taken_over, resolved):
        assert "taken-over: another driver or attempt trains it now" in said
    assert not list(run_of(resolved).glob("checkpoints/*"))


def taken_over_while_it_validates(resolved: dict[str, Any]) -> str:
    experiment = experiment_from(resolved, source="test")
    validate = loop.validate
    signals.LOOK_EVERY = 1000.0  # it has looked as it started, and looks again where it must

    def slow(*arguments: Any) -> Any:
        sign = {"host": "other", "pid": 7, "token": "new"}
        files.write_json(writer_uri(run_uri(experiment)), sign)
        return validate(*arguments)

    loop.validate = slow
    with pytest.raises(JointError) as error:
        train(experiment, CPU, lambda metrics: None, attempt=Attempt("old", 1))
    return str(error.value)


def test_a_run_that_is_taken_over_in_a_validation_is_not_written_after_it(root: Path) -> None:
    resolved = named(root, "taken-over-late")
    for said in on_ranks(2, taken_over_while_it_validates, resolved):
        assert "another driver or attempt trains it now" in said
    assert not run_of(resolved).exists()
