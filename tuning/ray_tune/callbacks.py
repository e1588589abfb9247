"""Callbacks of Ray Tune: record what trials report, and stop the sweep on request."""

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray import tune

from mdsrec import files
from mdsrec.config import Experiment
from mdsrec.errors import cause_of
from mdsrec.run_paths import RunPaths
from training.lifecycle.stopping import is_stop_requested
from tuning.ray_tune.scheduler import ResumableASHA
from tuning.trials import State, Trial, TrialStore

log = logging.getLogger("tuning")

STOP_CHECK_SECONDS = 2.0


class TrialRecorder(tune.Callback):  # type: ignore[misc]
    """Writes every report and end of a trial to the store.

    `experiments_of` gives the runs of a trial; `notify` is called after every report and end.
    """

    def __init__(
        self,
        store: TrialStore,
        scheduler: ResumableASHA | None,
        experiments_of: Callable[[Trial], list[Experiment]],
        notify: Callable[[Trial], None],
    ) -> None:
        self._store, self._experiments_of, self._notify = store, experiments_of, notify
        self._stopped = scheduler.stopped if scheduler else set[int]()
        self._with_checkpoints: list[Trial] = []  # ended trials

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any
    ) -> None:
        record = self._store.trials[trial.config["number"]]
        if "outcomes" in result:
            for epoch in result["history"]:  # includes epochs whose own report was lost
                self._store.add_report(record.number, epoch)
            record.outcomes, record.built = result["outcomes"], result["built"]
            record.cause = ""
            self._end(record, "finished")
        elif "cause" in result:
            record.cause = result["cause"]
            self._end(record, "failed")
        else:
            self._store.add_report(record.number, result)
            self._notify(record)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        record = self._store.trials[trial.config["number"]]
        if record.state == "running" and record.number in self._stopped:
            record.cause = ""
            self._end(record, "stopped")

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        log.warning("trial %d: its process was lost, it starts again", trial.config["number"])

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        record = self._store.trials[trial.config["number"]]
        text = Path(trial.error_file).read_text() if trial.error_file else ""
        record.cause = f"its process was lost {trial.num_failures} times: {cause_of(text)}"
        self._end(record, "failed")

    def delete_checkpoints(self) -> None:
        """Delete the checkpoints and leases of ended trials. Their weights and metrics stay.

        A failed trial keeps all, because it may be tried again.
        """
        while self._with_checkpoints:
            for experiment in self._experiments_of(self._with_checkpoints.pop()):
                paths = RunPaths.of(experiment)
                files.delete_folder(paths.checkpoints)
                files.delete_file(paths.lease)

    def _end(self, record: Trial, state: State) -> None:
        record.state = state
        self._store.save(record)
        # Only those of earlier trials: the processes of a stopped trial may still be writing.
        self.delete_checkpoints()
        if state != "failed":
            self._with_checkpoints.append(record)
        self._notify(record)


class StopFileStopper(tune.Stopper):  # type: ignore[misc]
    """Stops the sweep at `uri` when its folder has a file `stop`.

    The file is the stop request of a training too (training/lifecycle/stopping.py).
    """

    def __init__(self, uri: str) -> None:
        self._uri, self._checked, self._requested = uri, 0.0, False

    def __call__(self, trial_id: str, result: dict[str, object]) -> bool:
        return False

    def stop_all(self) -> bool:
        now = time.monotonic()
        if not self._requested and now - self._checked > STOP_CHECK_SECONDS:
            self._checked, self._requested = now, is_stop_requested(self._uri)
        return self._requested
