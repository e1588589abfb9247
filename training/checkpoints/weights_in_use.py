"""The weights that a run is evaluated, served and exported with: the one place that chooses them.

They are the best ones of the training, or these with rows of items that came later
(`appended.safetensors`, by `mdsrec append`).
"""

import logging
from functools import cache

from mdsrec import files
from mdsrec.errors import InputError
from mdsrec.run_paths import RunPaths
from training.checkpoints.carried_record import CARRIED, CarriedRecord
from training.checkpoints.stored_weights import StoredWeights

log = logging.getLogger("training")


def weights_in_use(paths: RunPaths) -> StoredWeights:
    """Open the weights of a run that was trained.

    InputError if rows were appended to other weights than the best ones are now.
    """
    best = StoredWeights(paths.best_weights)
    if not files.exists(paths.appended_weights):
        return best
    appended = StoredWeights(paths.appended_weights)
    if CarriedRecord.of(appended.metadata, appended.uri).source_mark != best.mark():
        raise InputError(
            f"{appended.uri}: rows of items for other weights, as the run was trained again since: "
            "run `mdsrec append CONFIG` again, or with --undo"
        )
    _say_once(appended.uri, appended_text(appended) or "")
    return appended


@cache
def _say_once(uri: str, text: str) -> None:
    """Log once in a process which weights are in use."""
    log.info("%s: in use: %s", uri, text)


def appended_text(stored: StoredWeights) -> str | None:
    """Return how many rows were appended to the weights of a training, None if none were."""
    if CARRIED not in stored.metadata:
        return None
    record = CarriedRecord.of(stored.metadata, stored.uri)
    return (
        f"{record.items_from_neighbors + record.items_initial:,} items got their rows after the "
        f"training: {record.items_from_neighbors:,} from their nearest trained neighbors, "
        f"{record.items_initial:,} without one are initial"
    )
