"""The clients of MLflow and Weights & Biases, behind the few calls that tracking needs."""

import logging
import os
import time
import uuid
from collections.abc import Mapping
from typing import Any, Protocol

from training.reporting import Figures

PROJECT = "mdsrec"  # unless the client's environment variable names another one
LONGEST_VALUE = 500  # characters of a parameter


class TrackedRun(Protocol):
    """A run in a tracker: created, or opened again by the `id` of its record."""

    id: str

    def __init__(self, name: str, params: Mapping[str, Any], record: Mapping[str, Any]) -> None: ...

    def log(self, figures: Figures, epoch: int) -> None:
        """Add a point to the curve of each figure."""

    def summarize(self, figures: Figures) -> None:
        """Set figures of the whole run."""

    def close(self, failed: bool) -> None:
        """Send everything and end."""


class MlflowRun:
    """A run of MLflow. A trial is a child of the run of its sweep."""

    def __init__(self, name: str, params: Mapping[str, Any], record: Mapping[str, Any]) -> None:
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        from mlflow import MlflowClient
        from mlflow.entities import Param

        self._client = MlflowClient()
        if record["id"]:
            self.id = str(record["id"])
            self._client.update_run(self.id, status="RUNNING")
            return
        tags = {"mlflow.parentRunId": record["sweep_id"]} if record["sweep_id"] else {}
        run = self._client.create_run(self._experiment(), run_name=name, tags=tags)
        self.id = str(run.info.run_id)
        values = [Param(key, str(value)[:LONGEST_VALUE]) for key, value in params.items()]
        for first in range(0, len(values), 100):  # the most in one request
            self._client.log_batch(self.id, params=values[first : first + 100])

    def _experiment(self) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        if found := self._client.get_experiment_by_name(name):
            return str(found.experiment_id)
        return str(self._client.create_experiment(name))

    def log(self, figures: Figures, epoch: int) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        points = [Metric(name, value, now, epoch) for name, value in figures.items()]
        self._client.log_batch(self.id, metrics=points)

    def summarize(self, figures: Figures) -> None:
        self.log(figures, 0)

    def close(self, failed: bool) -> None:
        self._client.set_terminated(self.id, "FAILED" if failed else "FINISHED")


class WandbRun:
    """A run of Weights & Biases. The trials of a sweep are one group."""

    def __init__(self, name: str, params: Mapping[str, Any], record: Mapping[str, Any]) -> None:
        os.environ.setdefault("WANDB_SILENT", "true")
        import wandb

        self.id = str(record["id"] or uuid.uuid4().hex)
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=self.id,
            name=name,
            group=record["sweep"],
            config=dict(params),
            resume="allow",
            settings=wandb.Settings(silent=True, console="off", init_timeout=30),
        )

    def log(self, figures: Figures, epoch: int) -> None:
        self._run.log(figures, step=epoch)

    def summarize(self, figures: Figures) -> None:
        self._run.summary.update(figures)

    def close(self, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))


CLIENTS: dict[str, type[TrackedRun]] = {"mlflow": MlflowRun, "wandb": WandbRun}
