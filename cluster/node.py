"""What one node sees of itself. Runs there, in a process of its own, and imports nothing that the
node may lack before it looks.
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
TEMPORARY = "/tmp"
SHARED_MEMORY = "/dev/shm"


@dataclass(frozen=True)
class Facts:
    versions: dict[str, str]  # of python and PACKAGES; of one that cannot be imported, why
    missing: tuple[str, ...]  # PACKAGES that cannot be imported
    faiss: tuple[str, ...]  # builds of faiss that are installed
    gpus: int  # that torch sees
    faiss_gpus: int
    free: dict[str, int]  # bytes, by folder of this machine
    shared_memory: int  # bytes of /dev/shm, taken or not
    auth: str  # Ray's mode of authentication


def facts(root: str) -> Facts:
    # Ray hides the GPUs from who asks for none; this process looks and ends.
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    logging.getLogger("faiss").setLevel(logging.WARNING)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        versions = {name: _version(name) for name in PACKAGES}
    missing = tuple(name for name, version in versions.items() if not version[:1].isdigit())
    folders = [TEMPORARY] if "://" in root else [root, TEMPORARY]
    return Facts(
        versions={"python": platform.python_version(), **versions},
        missing=missing,
        faiss=tuple(filter(_is_installed, ("faiss-cpu", "faiss-gpu"))),
        gpus=0 if "torch" in missing else importlib.import_module("torch").cuda.device_count(),
        faiss_gpus=0 if "faiss" in missing else _faiss_gpus(),
        free={folder: shutil.disk_usage(_standing(folder)).free for folder in folders},
        shared_memory=shutil.disk_usage(SHARED_MEMORY).total,
        auth=os.environ.get("RAY_AUTH_MODE", "disabled"),
    )


def _version(name: str) -> str:
    """Of a package that can be imported; otherwise why it cannot."""
    try:
        return str(importlib.import_module(name).__version__)
    except Exception as error:
        return " ".join(f"{type(error).__name__}: {error}".split())


def _is_installed(name: str) -> bool:
    try:
        return bool(distribution(name))
    except PackageNotFoundError:
        return False


def _faiss_gpus() -> int:
    """That faiss sees: none in a build without GPUs."""
    faiss = importlib.import_module("faiss")
    return int(faiss.get_num_gpus()) if hasattr(faiss, "get_num_gpus") else 0


def _standing(folder: str) -> Path:
    """The folder, or what stands above it: a root that is not made yet."""
    return next(path for path in (Path(folder), *Path(folder).parents) if path.exists())
