"""What a job takes along: our packages, its configuration, and nothing else of the folder."""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, distribution, requires
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from mdsrec.config.loading import experiment_from, read_content
from mdsrec.errors import InputError
from mdsrec.packages import copy_packages

CONSTRAINTS = "constraints.txt"
EXTRAS = ("", "cpu", "gpu", "demo")  # of which a job takes what is installed here
WORKING_DIR = "${RAY_RUNTIME_ENV_CREATE_WORKING_DIR}"  # spelled out where it is installed


def pack(folder: Path, config: str, overrides: Sequence[str]) -> list[str]:
    """Fill `folder` -> the words CONFIG KEY=VALUE ... that mean there what they mean here.

    Relative paths of the configuration are made absolute as this process reads them. InputError if
    it is not a valid one.
    """
    content = read_content(config, overrides)
    experiment = experiment_from(content, source=config)
    copy_packages(folder)
    name = Path(config).name
    shutil.copy(config, folder / name)
    if Path(CONSTRAINTS).exists():
        shutil.copy(CONSTRAINTS, folder)
    paths = _made_absolute(content, experiment.model_dump(mode="json"))
    return [name, *overrides, *paths]


def _made_absolute(content: Mapping[str, Any], resolved: Mapping[str, Any]) -> Iterator[str]:
    """Overrides for the keys whose text, or lists of it, another folder would resolve otherwise."""
    for key, written in content.items():
        found = resolved.get(key, written)
        if isinstance(written, dict) and isinstance(found, dict):
            yield from (f"{key}.{inner}" for inner in _made_absolute(written, found))
        elif isinstance(written, str | list) and type(found) is type(written) and found != written:
            yield f"{key}={json.dumps(found)}"


def requirements() -> list[str]:
    """What a node must install: our dependencies as they are here, in the versions that
    constraints.txt pins.
    """
    if not Path(CONSTRAINTS).exists():
        raise InputError(f"--install needs {CONSTRAINTS} in this folder, which says the versions")
    try:
        declared = [Requirement(line) for line in requires("mdsrec") or []]
    except PackageNotFoundError:
        raise InputError("--install needs mdsrec to be installed here: pip install -e .") from None
    wanted = [
        f"{requirement.name}{_extras(requirement)}"
        for requirement in declared
        if any(_applies(requirement, extra) for extra in EXTRAS) and _installed(requirement.name)
    ]
    return [*wanted, f"-c {WORKING_DIR}/{CONSTRAINTS}"]


def _applies(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def _extras(requirement: Requirement) -> str:
    return f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""


def _installed(name: str) -> bool:
    try:
        return bool(distribution(name))
    except PackageNotFoundError:
        return False
