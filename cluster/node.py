"""Self-check of a node, run there in a process of its own.

Optional packages are imported inside a check, so a missing one is reported, not raised.
"""

import contextlib
import importlib
import io
import logging
import os
import platform
import shutil
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

PACKAGES = ("torch", "ray", "deepspeed", "pyarrow", "faiss", "numpy", "pydantic", "safetensors")
FAISS = ("faiss-cpu", "faiss-gpu", "faiss-gpu-cu12", "faiss-gpu-cuvs")
TEMPORARY = "/tmp"
SHARED_MEMORY = "/dev/shm"


@dataclass(frozen=True)
class NodeFacts:
    versions: dict[str, str]  # of Python and PACKAGES; the error if a package cannot be imported
    missing: tuple[str, ...]  # PACKAGES that cannot be imported
    faiss: tuple[str, ...]  # installed builds of faiss
    gpus: int  # visible to torch
    faiss_gpus: int
    free: dict[str, int]  # bytes free on the disk of each folder
    shared_memory: int  # size of /dev/shm in bytes
    auth: str  # Ray's authentication mode


def collect_facts(root: str) -> NodeFacts:
    """Return the facts of this node; `root` is the experiment's.

    GPUs are those that this process may see.
    """
    logging.getLogger("faiss").setLevel(logging.WARNING)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        versions = {name: _version_or_error(name) for name in PACKAGES}
    missing = tuple(name for name, version in versions.items() if not version[:1].isdigit())
    folders = [TEMPORARY] if "://" in root else [root, TEMPORARY]
    return NodeFacts(
        versions={"python": platform.python_version(), **versions},
        missing=missing,
        faiss=tuple(filter(_is_installed, FAISS)),
        gpus=0 if "torch" in missing else importlib.import_module("torch").cuda.device_count(),
        faiss_gpus=0 if "faiss" in missing else _num_faiss_gpus(),
        free={folder: shutil.disk_usage(_existing_parent(folder)).free for folder in folders},
        shared_memory=shutil.disk_usage(SHARED_MEMORY).total,
        auth=os.environ.get("RAY_AUTH_MODE", "disabled"),
    )


def _version_or_error(name: str) -> str:
    """Return the version of a package, or in one line the error that its import raises."""
    try:
        return str(importlib.import_module(name).__version__)
    except Exception as error:
        return " ".join(f"{type(error).__name__}: {error}".split())


def _is_installed(name: str) -> bool:
    try:
        return bool(distribution(name))
    except PackageNotFoundError:
        return False


def _num_faiss_gpus() -> int:
    """Return the GPUs that faiss sees; 0 for a CPU build."""
    faiss = importlib.import_module("faiss")
    return int(faiss.get_num_gpus()) if hasattr(faiss, "get_num_gpus") else 0


def _existing_parent(folder: str) -> Path:
    """Return the folder or, as a root may not exist yet, its closest parent that does."""
    return next(path for path in (Path(folder), *Path(folder).parents) if path.exists())
