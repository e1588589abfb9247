"""Tables that trials need: each is built once, by whoever asks first, while others wait.

H is a prefix of the stored neighbours, rho is the model's, and the values of k and mu that a space
lists are built before the first trial. A mu drawn from an interval is built when its trial asks.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mdsrec import table_names, tables
from mdsrec.config import Experiment
from tuning.stages import Run


def tables_of(experiment: Experiment) -> set[str]:
    """The tables that differ between trials: neighbours by mu, centres by k, the graph's."""
    needs = experiment.model.needs
    found = {table_names.cooccurrence_name(experiment)} if needs.cooccurrence else set()
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


class Builder:
    """Answers one caller after the other; `folder` is where the configuration's paths start."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._standing: set[str] = set()

    def build(self, config: str, overrides: Sequence[str], experiment: Experiment) -> list[str]:
        """Have `python -m etl CONFIG OVERRIDES`, which is `experiment`, make what does not stand ->
        the tables that it made. InputError with the stage's last line if it fails.
        """
        wanted = tables_of(experiment)
        if wanted <= self._standing:
            return []
        before = _fingerprints(experiment.root, wanted)
        Run("tables", config, list(overrides)).stage("etl", folder=self._folder)
        self._standing |= wanted
        after = _fingerprints(experiment.root, wanted)
        return sorted(name for name in wanted if after[name] != before[name])


def start_builder() -> Any:
    """The one of this sweep, a process beside the driver's, where the configuration lies."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(Builder).options(num_cpus=0, scheduling_strategy=here).remote(str(Path.cwd()))


def _fingerprints(root: str, wanted: set[str]) -> Mapping[str, str | None]:
    found = {name: tables.read_manifest(tables.table_uri(root, name)) for name in wanted}
    return {name: manifest.fingerprint if manifest else None for name, manifest in found.items()}
