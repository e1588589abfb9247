"""A trained run that weights are carried from. It may lie below another root."""

from dataclasses import dataclass
from typing import Self

from mdsrec import files, tables
from mdsrec.config import Experiment
from mdsrec.errors import InputError
from mdsrec.run_paths import RunPaths, stored_experiment
from training.checkpoints.stored_weights import StoredWeights


@dataclass(frozen=True)
class ItemIds:
    """A table `items`, of which the ids and the numbers of training events are read."""

    uri: str
    manifest: tables.Manifest

    @classmethod
    def of_root(cls, root: str) -> Self:
        """Open the current table of a root."""
        uri = tables.table_uri(root, "items")
        return cls(uri, tables.open_table(uri))


@dataclass(frozen=True)
class SourceRun:
    """The best weights of a run, and the items whose rows are in them."""

    uri: str
    experiment: Experiment
    weights: StoredWeights
    items: ItemIds

    @classmethod
    def open(cls, uri: str) -> Self:
        """Open the run in the folder ROOT/runs/NAME.

        InputError if it has no weights, or if the items that it was trained on are gone.
        """
        experiment, paths = stored_experiment(uri), RunPaths(uri)
        if experiment is None or not files.exists(paths.best_weights):
            raise InputError(f"{uri}: not the folder of a trained run, ROOT/runs/NAME")
        trained_on = files.read_json(paths.dataset).get("items")
        items = items_of_run(uri, experiment.root, trained_on)
        return cls(uri, experiment, StoredWeights(paths.best_weights), items)


def items_of_run(uri: str, root: str, trained_on: str | None) -> ItemIds:
    """Open the table `items` that a run was trained on, current or former, by its fingerprint."""
    table = tables.table_uri(root, "items")
    found = tables.version_of(table, trained_on) if trained_on else None
    if found is None:
        raise InputError(
            f"{uri}: trained on the table items {trained_on}; {table} is another now, and that one "
            "was not kept: its rows cannot be told by item: train it again"
        )
    return ItemIds(table, found)
