"""A run's name is its identity: one configuration, one data set."""

from typing import Any

from mdsrec import files
from mdsrec.config import Experiment
from mdsrec.config.loading import experiment_from
from mdsrec.errors import InputError
from mdsrec.table_names import run_uri

REMEDY = "choose another name, or train it anew with --fresh"


def claim(experiment: Experiment, fingerprints: dict[str, str]) -> None:
    """Make the run's folder this experiment's, on tables of these fingerprints, or refuse."""
    run = run_uri(experiment)
    check_claim(experiment, fingerprints)
    files.write_json(f"{run}/dataset.json", fingerprints)
    files.write_json(f"{run}/config.json", experiment.resolved())


def check_claim(experiment: Experiment, fingerprints: dict[str, str]) -> None:
    """InputError if the run of this name has another configuration, or other tables."""
    run = run_uri(experiment)
    if files.read_bytes(f"{run}/config.json") is None:
        return
    check_identity(experiment)
    known = files.read_json(f"{run}/dataset.json")
    changed = sorted(name for name in fingerprints if fingerprints[name] != known.get(name))
    if changed:
        raise InputError(
            f"run {experiment.name}: its data set changed under it ({', '.join(changed)}): {REMEDY}"
        )


def check_identity(experiment: Experiment) -> None:
    """InputError naming the keys at which the run of this name has another configuration."""
    uri = f"{run_uri(experiment)}/config.json"
    content = files.read_json(uri)
    standing = experiment_from(content, source=uri).identity()
    changed = sorted(_differences(standing, experiment.identity()))
    if changed:
        raise InputError(
            f"run {experiment.name} has another configuration ({', '.join(changed)} changed): "
            f"{REMEDY}"
        )


def _differences(left: Any, right: Any, key: str = "") -> set[str]:
    """Dotted keys at which two nested mappings differ."""
    if isinstance(left, dict) and isinstance(right, dict):
        return {
            found
            for name in left.keys() | right.keys()
            for found in _differences(left.get(name), right.get(name), f"{key}.{name}".lstrip("."))
        }
    return set() if left == right else {key}
