"""Working directory of a job: our packages and its configuration, nothing else of this folder."""

import logging
import shutil
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, distribution, requires
from pathlib import Path
from typing import Any

import tomli_w
from packaging.requirements import Requirement

from mdsrec.config.loading import experiment_from, read_content
from mdsrec.config.own_model import is_own
from mdsrec.errors import InputError
from mdsrec.packages import copy_modules, copy_packages

log = logging.getLogger("cluster")

CONSTRAINTS = "constraints.txt"
EXTRAS = ("", "cpu", "gpu", "demo")  # a job gets those of their packages that are installed here
WORKING_DIR = "${RAY_RUNTIME_ENV_CREATE_WORKING_DIR}"  # Ray replaces it on the node


def write_job_folder(folder: Path, config: str, overrides: Sequence[str]) -> list[str]:
    """Fill `folder` and return the arguments, CONFIG, of a command that runs in it.

    The overrides become a part of the file, because a dashboard shows the command of a job.
    Relative paths become absolute, so they mean the same there as here. InputError if the
    configuration is not valid.
    """
    content = read_content(config, overrides)
    experiment = experiment_from(content, source=config)
    copy_packages(folder)
    _copy_own_model(folder, experiment.model.name)
    name = Path(config).name
    content = _with_absolute_paths(content, experiment.model_dump(mode="json"))
    (folder / name).write_text(tomli_w.dumps(content), encoding="utf-8")
    if Path(CONSTRAINTS).exists():
        shutil.copy(CONSTRAINTS, folder)
    return [name]


def _copy_own_model(folder: Path, name: str) -> None:
    """Copy the module or the modules of a package of the user's own model from this folder.

    One that is installed is expected on the nodes too.
    """
    if not is_own(name):
        return
    top = name.partition(":")[0].partition(".")[0]
    for source in (Path(f"{top}.py"), Path(top)):
        if source.is_dir():
            if left_out := copy_modules(source, folder / top):
                log.info("the job gets the modules of %s, not its %d other files", top, left_out)
        elif source.exists():
            shutil.copy(source, folder)


def _with_absolute_paths(content: Mapping[str, Any], resolved: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content with each text or list that loading changed: these are relative paths."""
    changed = dict(content)
    for key, written in content.items():
        value = resolved.get(key, written)
        if isinstance(written, dict) and isinstance(value, dict):
            changed[key] = _with_absolute_paths(written, value)
        elif isinstance(written, str | list) and type(value) is type(written):
            changed[key] = value
    return changed


def requirements() -> list[str]:
    """Return what a node must install, as pip reads it.

    These are our dependencies that are installed here, in the versions that constraints.txt pins.
    """
    if not Path(CONSTRAINTS).exists():
        raise InputError(f"--install needs {CONSTRAINTS} in this folder, which pins the versions")
    try:
        declared = [Requirement(line) for line in requires("mdsrec") or []]
    except PackageNotFoundError:
        raise InputError("--install needs mdsrec to be installed here: pip install -e .") from None
    wanted = [
        f"{requirement.name}{_extras(requirement)}"
        for requirement in declared
        if any(_applies(requirement, extra) for extra in EXTRAS) and _is_installed(requirement.name)
    ]
    return [*wanted, f"-c {WORKING_DIR}/{CONSTRAINTS}"]


def _applies(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def _extras(requirement: Requirement) -> str:
    return f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""


def _is_installed(name: str) -> bool:
    try:
        return bool(distribution(name))
    except PackageNotFoundError:
        return False
