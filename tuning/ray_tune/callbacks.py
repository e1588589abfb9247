"""Everything that trials report goes into their records as it arrives."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray import tune

from mdsrec import files
from mdsrec.config import Experiment
from mdsrec.errors import last_words
from mdsrec.table_names import run_uri
from training.lifecycle.lease import writer_uri
from tuning.ray_tune.scheduler import Halving
from tuning.trials import Records, Trial

log = logging.getLogger("tuning")


class Journal(tune.Callback):  # type: ignore[misc]
    """`tell` is called after every report and every end; `runs_of` are a trial's experiments."""

    def __init__(
        self,
        records: Records,
        halving: Halving | None,
        runs_of: Callable[[Trial], list[Experiment]],
        tell: Callable[[Trial], None],
    ) -> None:
        self._records, self._runs_of, self._tell = records, runs_of, tell
        self._stopped = halving.stopped if halving else set[int]()
        self._to_clear: list[Trial] = []

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any
    ) -> None:
        record = self._records.trials[trial.config["number"]]
        if "outcomes" in result:
            for epoch in result["history"]:  # also what was lost on the way
                self._records.report(record.number, epoch)
            record.outcomes, record.built = result["outcomes"], result["built"]
            self._close(record, "finished")
        elif "cause" in result:
            record.cause = result["cause"]
            self._close(record, "failed")
        else:
            self._records.report(record.number, result)
            self._tell(record)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        record = self._records.trials[trial.config["number"]]
        if record.state == "running" and record.number in self._stopped:
            self._close(record, "stopped")

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        log.warning("trial %d: its process was lost, it starts again", trial.config["number"])

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        record = self._records.trials[trial.config["number"]]
        said = Path(trial.error_file).read_text() if trial.error_file else ""
        record.cause = f"its process was lost {trial.num_failures} times: {last_words(said)}"
        self._close(record, "failed")

    def clear(self) -> None:
        """Delete what ended trials keep to go on from; their weights and figures stay."""
        while self._to_clear:
            for experiment in self._runs_of(self._to_clear.pop()):
                run = run_uri(experiment)
                files.delete_folder(f"{run}/checkpoints")
                files.delete_file(writer_uri(run))

    def _close(self, record: Trial, state: Any) -> None:
        record.state = state
        self._records.save(record)
        self.clear()  # those before: the processes of one that is stopped end after this
        self._to_clear.append(record)
        self._tell(record)
