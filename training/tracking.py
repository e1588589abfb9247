"""Tracking of runs: parameters and metrics, sent to MLflow or Weights & Biases by their clients.

A thread sends them, so that training never waits for a server. The first failure is logged as one
warning, and the training goes on without tracking. The clients read addresses and keys from their
own environment variables, as MLFLOW_TRACKING_URI and WANDB_API_KEY.
"""

import logging
import queue
import threading
from collections.abc import Callable, Mapping
from typing import Any

from mdsrec import files
from mdsrec.config import Experiment
from mdsrec.run_paths import RunPaths
from training.reporting import Figures, Reporter
from training.tracking_clients import CLIENTS, TrackedRun

WAIT_SECONDS = 60.0  # for what is left to send when a command ends

log = logging.getLogger("training")

Action = Callable[[TrackedRun], None]


class Tracking(Reporter):
    """A run, or a sweep, in the tracker. The folder `uri` remembers its id in tracking.json.

    So a run that is continued, evaluated or adopted by a sweep stays one run in the tracker.
    """

    def __init__(self, client: str, uri: str, name: str, params: Mapping[str, Any]) -> None:
        self._client, self._uri, self._name, self._params = client, uri, name, params
        self._actions: queue.SimpleQueue[Action | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._send, name="tracking", daemon=True)
        self._thread.start()

    @classmethod
    def of(cls, experiment: Experiment) -> "Tracking | None":
        """Return the tracking that an experiment asks for, if any."""
        client, uri = experiment.train.tracking, RunPaths.of(experiment).uri
        params = dict(_flat(experiment.resolved()))
        return cls(client, uri, experiment.name, params) if client else None

    def report_epoch(self, figures: Figures) -> None:
        """Send the finished epochs of history.json that the tracker does not have."""
        self._actions.put(self._send_epochs)

    def summarize(self, figures: Figures) -> None:
        """Send figures of the whole run, such as test metrics."""
        self._actions.put(lambda run: run.summarize(_valid_names(figures)))

    def close(self, failed: bool = False) -> None:
        """Wait until everything is sent, for WAIT_SECONDS at most."""
        self._actions.put(lambda run: run.close(failed))
        self._actions.put(None)
        self._thread.join(WAIT_SECONDS)
        if self._thread.is_alive():
            self._warn(f"no answer within {WAIT_SECONDS:g} s")

    def _send(self) -> None:
        try:
            record = read_record(self._uri, self._client)
            run = CLIENTS[self._client](self._name, self._params, record)
            files.write_json(_record_uri(self._uri), {**record, "id": run.id})
            while (action := self._actions.get()) is not None:
                action(run)
        except ImportError as error:
            self._warn(f'{error}: pip install "mdsrec[{self._client}]"')
        except Exception as error:  # the clients raise many kinds
            self._warn(files.first_line(error))

    def _send_epochs(self, run: TrackedRun) -> None:
        record = read_record(self._uri, self._client)
        epochs = files.read_json(f"{self._uri}/history.json").get("epochs", [])
        for number in range(record["epochs"], len(epochs)):
            figures = {name: value for name, value in epochs[number].items() if name != "epoch"}
            run.log(_valid_names(figures), number)
        files.write_json(_record_uri(self._uri), {**record, "epochs": len(epochs)})

    def _warn(self, cause: str) -> None:
        log.warning(
            "%s: train.tracking = %s: %s: nothing more is sent", self._name, self._client, cause
        )


def read_record(uri: str, client: str) -> dict[str, Any]:
    """Return what tracking.json says of the run at `uri`: its id, sent epochs, and its sweep."""
    stored = files.read_json(_record_uri(uri))
    if stored.get("client") != client:
        stored = {"client": client}
    return {"id": None, "epochs": 0, "sweep": None, "sweep_id": None, **stored}


def adopt(run_uri: str, sweep_uri: str, sweep: str, client: str) -> None:
    """Make a run that has not started the child of a sweep."""
    record = read_record(run_uri, client)
    parent = read_record(sweep_uri, client)["id"]
    files.write_json(_record_uri(run_uri), {**record, "sweep": sweep, "sweep_id": parent})


def _record_uri(uri: str) -> str:
    return f"{uri}/tracking.json"


def _valid_names(figures: Figures) -> Figures:
    """Return the figures with names that both trackers accept: ndcg_at_10 for ndcg@10."""
    return {name.replace("@", "_at_"): value for name, value in figures.items()}


def _flat(section: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Return (dotted key, value) of everything in nested sections."""
    found: list[tuple[str, Any]] = []
    for key, value in section.items():
        if isinstance(value, Mapping):
            found += _flat(value, f"{prefix}{key}.")
        else:
            found.append((f"{prefix}{key}", value))
    return found
