"""The length of a run: `max_epochs` and `patience` may change between two starts of it.

No step depends on them. So a finished run that is given more epochs goes on from its last
checkpoint, and ends like a run that had them from the start.
"""

import logging
from typing import Any

from mdsrec import files
from mdsrec.config import Experiment
from mdsrec.errors import InputError
from mdsrec.run_paths import RunPaths
from training.checkpoints.store import checkpoint_names
from training.lifecycle.identity import REMEDY
from training.progress import Progress

log = logging.getLogger("training")

LIMITS = ("max_epochs", "patience")


def end_of(epochs: list[dict[str, float]], experiment: Experiment) -> int | None:
    """Return after how many of these epochs the training ends; None if it goes on after them."""
    if not experiment.model.is_trained:
        return len(epochs) or None
    progress = Progress()
    for metrics in epochs:
        progress.finish_epoch(metrics)
        if progress.is_finished(experiment):
            return progress.next_epoch
    return None


def has_ended(experiment: Experiment) -> bool:
    """Return True if the run has all epochs up to the end that the experiment sets.

    It may have more. InputError if one of those is its best: its weights are a longer run's.
    """
    history = _history(experiment)
    epochs = history.get("epochs", [])
    end = end_of(epochs, experiment)
    if end is not None and history["best_epoch"] >= end:
        raise InputError(
            f"run {experiment.name} was trained for {len(epochs)} epochs and has the weights of "
            f"epoch {history['best_epoch']}, but {_limits_text(experiment)} end it after "
            f"{end} epochs: raise them, {REMEDY}"
        )
    return end is not None


def check_trained(experiment: Experiment) -> None:
    """Raise InputError if the run is finished, but not with the epochs of the experiment."""
    if not has_ended(experiment) and (num_epochs := _num_finished(experiment)):
        raise InputError(
            f"run {experiment.name} was finished after {num_epochs} epochs, but "
            f"{_limits_text(experiment)} let it go on: run `mdsrec train CONFIG` first"
        )


def check_can_go_on(experiment: Experiment) -> None:
    """Raise InputError if the run is finished and its checkpoints are gone."""
    num_epochs = _num_finished(experiment)
    if num_epochs and not checkpoint_names(RunPaths.of(experiment).checkpoints):
        raise InputError(
            f"run {experiment.name} was finished after {num_epochs} epochs and cannot go on, "
            f"because its checkpoints were deleted: {REMEDY}"
        )


def reopen(experiment: Experiment) -> None:
    """Mark a run that goes on as not finished."""
    if num_epochs := _num_finished(experiment):
        log.info(
            "%s was finished: it goes on from epoch %d, with %s",
            experiment.name,
            num_epochs,
            _limits_text(experiment),
        )
        _set_finished(experiment, False)


def is_closed(experiment: Experiment) -> bool:
    """Return True if the run's files say that it is finished with the limits of the experiment."""
    stored = files.read_json(RunPaths.of(experiment).config).get("train", {})
    return _num_finished(experiment) > 0 and _limits(experiment).items() <= stored.items()


def close(experiment: Experiment) -> None:
    """Store in the run's files that it is finished with the limits of the experiment."""
    paths = RunPaths.of(experiment)
    config = files.read_json(paths.config) or experiment.resolved()
    files.write_json(paths.config, {**config, "train": config["train"] | _limits(experiment)})
    _set_finished(experiment, True)


def _history(experiment: Experiment) -> dict[str, Any]:
    return RunPaths.of(experiment).read_history()


def _num_finished(experiment: Experiment) -> int:
    """Return the number of epochs of a finished run, 0 for another."""
    history = _history(experiment)
    return len(history["epochs"]) if history.get("finished") else 0


def _set_finished(experiment: Experiment, finished: bool) -> None:
    history = {**_history(experiment), "finished": finished}
    files.write_json(RunPaths.of(experiment).history, history)


def _limits(experiment: Experiment) -> dict[str, int]:
    return {name: getattr(experiment.train, name) for name in LIMITS}


def _limits_text(experiment: Experiment) -> str:
    return " and ".join(f"train.{key} = {value}" for key, value in _limits(experiment).items())
