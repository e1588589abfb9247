"""Checks of the tables that a model reads. They read manifests only."""

from collections.abc import Mapping

import numpy as np

from mdsrec import tables
from mdsrec.config import Experiment
from mdsrec.errors import InputError
from mdsrec.table_names import (
    centers_name,
    cooccurrence_name,
    features_name,
    memory_name,
    neighbors_name,
    transitions_name,
)
from mdsrec.table_settings import table_settings

MOST_ITEMS = int(np.iinfo(np.int32).max)  # items are numbered in 32 bits in tables and graphs


def check_item_tables(experiment: Experiment) -> dict[str, str]:
    """Check every table that the model reads and return their fingerprints by name.

    Raises InputError if a table is missing or too small, was made with other settings, or was made
    before one of its inputs was rebuilt.
    """
    manifests = checked_manifests(experiment)
    return {name: manifest.fingerprint for name, manifest in manifests.items()}


def check_memory_table(experiment: Experiment) -> tuple[tables.Manifest, int]:
    """Return the manifest of the memory of transitions, and the number of items.

    Raises InputError as `check_item_tables` does.
    """
    names = ["sequences", "items", transitions_name(experiment)]
    for modality in experiment.memory_modalities:
        mu = experiment.transitions.mu
        names += [features_name(modality), neighbors_name(experiment, modality, mu)]
    manifests: dict[str, tables.Manifest] = {}
    for name in (*names, memory_name(experiment)):
        manifests[name] = checked_manifest(experiment, name, manifests)
    return manifests[memory_name(experiment)], manifests["items"].rows


def checked_manifests(experiment: Experiment) -> dict[str, tables.Manifest]:
    """Return the manifests of the tables that the model reads, inputs before what uses them."""
    model, needs = experiment.model, experiment.model.needs
    manifests: dict[str, tables.Manifest] = {}

    def check(name: str) -> int:
        manifests[name] = checked_manifest(experiment, name, manifests)
        return manifests[name].rows

    check("sequences")
    experiment.train.check_fits(check("items"))
    if needs.cooccurrence:
        check(cooccurrence_name(experiment))
    if not model.is_trained:
        manifests[memory_name(experiment)], _ = check_memory_table(experiment)
    for modality in experiment.modalities:
        model.check_fits(modality, check(features_name(modality)))
        if needs.neighbors:
            check(neighbors_name(experiment, modality))
        if needs.centers:
            check(centers_name(experiment, modality))
    return manifests


def checked_manifest(
    experiment: Experiment, name: str, inputs: Mapping[str, tables.Manifest]
) -> tables.Manifest:
    """Open a table; raise InputError if it was made with other settings or from other inputs."""
    uri, settings = tables.table_uri(experiment.root, name), table_settings(experiment)[name]
    manifest = tables.open_table(uri)
    for key in sorted(settings.keys() | manifest.settings.keys()):
        wanted, actual = settings.get(key), manifest.settings.get(key)
        if wanted != actual:
            raise InputError(
                f"{uri}: made with {key} = {actual}, the configuration says {wanted}: "
                f"{tables.ETL_FIRST}"
            )
    for input_name, fingerprint in manifest.inputs.items():
        if input_name in inputs and inputs[input_name].fingerprint != fingerprint:
            raise InputError(f"{uri}: made before {input_name} was rebuilt: {tables.ETL_FIRST}")
    if name == "items" and manifest.rows > MOST_ITEMS:
        raise InputError(
            f"{uri}: {manifest.rows:,} items, but items are numbered in 32 bits: at most "
            f"{MOST_ITEMS:,}: raise sequences.k_core"
        )
    return manifest
