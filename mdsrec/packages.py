"""Our packages as files, for processes that have none installed."""

import shutil
from collections.abc import Sequence
from pathlib import Path

PACKAGES = ("mdsrec", "etl", "training", "evaluation", "tuning", "cluster")
OURS = Path(__file__).absolute().parent.parent


def copy_packages(folder: Path, names: Sequence[str] = PACKAGES) -> None:
    """Copies of `names` below `folder`, without what Python made of them."""
    for name in names:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(OURS / name, folder / name, ignore=ignored)
