"""Tables that trials need. Each is built once, for the first trial that needs it; others wait.

The values of k and mu that a space lists are built before the first trial; a mu drawn from an
interval is built when its trial starts. Other keys need no tables of their own: num_neighbors reads
a prefix of the stored neighbors, and rho is applied by the model.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mdsrec import files, table_names, tables
from mdsrec.config import Experiment
from mdsrec.errors import InputError
from mdsrec.table_settings import stored_fingerprints, table_settings
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


class Built(NamedTuple):
    """The tables of a trial: the names of those that were built for it, all fingerprints by URI."""

    names: list[str]
    fingerprints: dict[str, str]


class TableBuilder:
    """Ray actor that builds tables, one request at a time.

    Relative paths in the configuration start at `folder`. `overrides` are those of all requests.
    All trials of the sweep at `uri` have the same tables, also when it is resumed: the file
    `dataset.json` in it has their fingerprints.
    """

    def __init__(self, folder: str, uri: str, overrides: Sequence[str] = ()) -> None:
        self._folder, self._uri, self._overrides = folder, uri, list(overrides)
        self._claimed: dict[str, str] = files.read_json(f"{uri}/dataset.json")  # by name

    def build(self, config: str, overrides: Sequence[str], experiment: Experiment) -> Built:
        """Run `python -m etl CONFIG OVERRIDES` if a table is missing or not the sweep's.

        `experiment` is the loaded configuration. InputError if the ETL fails, or if it builds
        other tables than those of the trials before.
        """
        needed = varying_tables(experiment)
        before = _fingerprints(experiment)
        if not (needed <= before.keys() and before.items() <= self._claimed.items()):
            run = RunSpec("tables", config, [*self._overrides, *overrides])
            run.run_stage("etl", folder=self._folder)
        after = _fingerprints(experiment)
        self._claim(after)
        found = {tables.table_uri(experiment.root, name): after[name] for name in after}
        return Built(sorted(n for n in needed if after.get(n) != before.get(n)), found)

    def _claim(self, found: Mapping[str, str]) -> None:
        """Store fingerprints for the trials to come. InputError if a claimed table has another."""
        changed = sorted(n for n in found if self._claimed.get(n, found[n]) != found[n])
        if changed:
            raise InputError(
                f"{self._uri}: its data set has changed ({', '.join(changed)}), and its trials "
                "would not compare: choose another name, or delete it"
            )
        if not found.items() <= self._claimed.items():
            self._claimed |= found
            files.write_json(f"{self._uri}/dataset.json", self._claimed)


def start_table_builder(sweep: str, overrides: Sequence[str] = ()) -> Any:
    """Start the actor of a sweep on the driver's node, where the configuration file is."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor = ray.remote(TableBuilder).options(num_cpus=0, scheduling_strategy=here)
    return actor.remote(str(Path.cwd()), sweep, list(overrides))


def _fingerprints(experiment: Experiment) -> dict[str, str]:
    """Return the fingerprints of the experiment's tables that exist, by name."""
    stored, root = stored_fingerprints(experiment), experiment.root
    uris = {name: tables.table_uri(root, name) for name in table_settings(experiment)}
    return {name: stored[uri] for name, uri in uris.items() if uri in stored}
