"""Tables that trials need. Each is built once, for the first trial that needs it; others wait.

The values of k and mu that a space lists are built before the first trial; a mu drawn from an
interval is built when its trial starts. Other keys need no tables of their own: num_neighbors reads
a prefix of the stored neighbors, and rho is applied by the model.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mdsrec import table_names, tables
from mdsrec.config import Experiment
from tuning.stages import RunSpec


def varying_tables(experiment: Experiment) -> set[str]:
    """Return the tables that can differ between trials.

    These are the co-occurrence table, the memory of transitions, the neighbors (by mu) and the
    centers (by k).
    """
    needs = experiment.model.needs
    found = {table_names.cooccurrence_name(experiment)} if needs.cooccurrence else set()
    if experiment.model.memory:
        found |= {table_names.transitions_name(experiment), table_names.memory_name(experiment)}
    for modality in experiment.modalities:
        if needs.neighbors:
            found.update(
                table_names.neighbors_name(experiment, modality, mu)
                for mu in experiment.mus(modality)
            )
        if needs.centers:
            found.update(
                table_names.centers_name(experiment, modality, k)
                for k in experiment.all_num_centers()
            )
    return found


class TableBuilder:
    """Ray actor that builds tables, one request at a time.

    Relative paths in the configuration start at `folder`. `overrides` are those of all requests.
    """

    def __init__(self, folder: str, overrides: Sequence[str] = ()) -> None:
        self._folder, self._overrides = folder, list(overrides)
        self._complete: set[str] = set()

    def build(self, config: str, overrides: Sequence[str], experiment: Experiment) -> list[str]:
        """Run `python -m etl CONFIG OVERRIDES` if a table is missing; return the tables it built.

        `experiment` is the loaded configuration. Raises InputError if the ETL fails.
        """
        needed = varying_tables(experiment)
        if needed <= self._complete:
            return []
        before = _fingerprints(experiment.root, needed)
        run = RunSpec("tables", config, [*self._overrides, *overrides])
        run.run_stage("etl", folder=self._folder)
        self._complete |= needed
        after = _fingerprints(experiment.root, needed)
        return sorted(name for name in needed if after[name] != before[name])


def start_table_builder(overrides: Sequence[str] = ()) -> Any:
    """Start the actor on the driver's node, where the configuration file is."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor = ray.remote(TableBuilder).options(num_cpus=0, scheduling_strategy=here)
    return actor.remote(str(Path.cwd()), list(overrides))


def _fingerprints(root: str, names: set[str]) -> Mapping[str, str | None]:
    found = {name: tables.read_manifest(tables.table_uri(root, name)) for name in names}
    return {name: manifest.fingerprint if manifest else None for name, manifest in found.items()}
