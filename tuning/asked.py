"""A sweep ends early when it is asked to, as a training does (training/lifecycle/stopping.py)."""

import time

from ray import tune

from training.lifecycle.stopping import is_asked

LOOK_EVERY = 2.0  # seconds


class AskedToStop(tune.Stopper):  # type: ignore[misc]
    """Looks for the file `stop` of the sweep at `uri`."""

    def __init__(self, uri: str) -> None:
        self._uri, self._looked, self._asked = uri, 0.0, False

    def __call__(self, trial_id: str, result: dict[str, object]) -> bool:
        return False

    def stop_all(self) -> bool:
        now = time.monotonic()
        if not self._asked and now - self._looked > LOOK_EVERY:
            self._looked, self._asked = now, is_asked(self._uri)
        return self._asked
