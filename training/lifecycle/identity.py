"""The identity of a run: its name belongs to one configuration and one data set."""

from typing import Any

from mdsrec import files
from mdsrec.config import Experiment
from mdsrec.config.loading import experiment_from
from mdsrec.errors import InputError
from mdsrec.run_paths import RunPaths
from mdsrec.table_settings import run_table_fingerprints

REMEDY = "choose another name, or train it again with --fresh"


def claim(experiment: Experiment, fingerprints: dict[str, str]) -> None:
    """Store the configuration and the fingerprints of the tables in the run folder.

    These are also the tables that only an evaluation reads.

    InputError as in `check_claim`.
    """
    paths = RunPaths.of(experiment)
    check_claim(experiment, fingerprints)
    files.write_json(paths.dataset, run_table_fingerprints(experiment) | fingerprints)
    files.write_json(paths.config, experiment.resolved())


def check_claim(experiment: Experiment, fingerprints: dict[str, str]) -> None:
    """Raise InputError if the run of this name has another configuration or other tables."""
    paths = RunPaths.of(experiment)
    if files.read_bytes(paths.config) is None:
        return
    check_identity(experiment)
    stored = files.read_json(paths.dataset)
    changed = sorted(name for name in fingerprints if fingerprints[name] != stored.get(name))
    if changed:
        raise InputError(
            f"run {experiment.name}: its data set has changed ({', '.join(changed)}): {REMEDY}"
        )


def check_identity(experiment: Experiment) -> None:
    """Raise InputError that names the keys in which the run of this name differs."""
    uri = RunPaths.of(experiment).config
    content = files.read_json(uri)
    try:
        stored = experiment_from(content, source=uri).identity()
    except InputError as error:
        raise InputError(
            f"run {experiment.name} was trained by another version of this program ({error}): "
            f"{REMEDY}"
        ) from None
    changed = sorted(_changed_keys(stored, experiment.identity()))
    if changed:
        raise InputError(
            f"run {experiment.name} has another configuration ({', '.join(changed)} changed): "
            f"{REMEDY}"
        )


def _changed_keys(left: Any, right: Any, key: str = "") -> set[str]:
    """Return the dotted keys at which two nested dicts differ."""
    if isinstance(left, dict) and isinstance(right, dict):
        return {
            changed
            for name in left.keys() | right.keys()
            for changed in _changed_keys(
                left.get(name), right.get(name), f"{key}.{name}".lstrip(".")
            )
        }
    return set() if left == right else {key}
