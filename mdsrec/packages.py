"""Copies of our packages for machines on which they are not installed.

`python -m mdsrec.packages FILE.zip` writes the archive that Spark sends to its executors.
"""

import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

PACKAGES = ("mdsrec", "etl", "training", "evaluation", "tuning", "cluster")
ETL_PACKAGES = ("etl", "mdsrec")
SOURCE = Path(__file__).absolute().parent.parent


def copy_packages(folder: Path, names: Sequence[str] = PACKAGES) -> None:
    """Copy packages into `folder`, without bytecode."""
    for name in names:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(SOURCE / name, folder / name, ignore=ignored)


def zip_packages(archive: Path, names: Sequence[str] = ETL_PACKAGES) -> Path:
    """Write a .zip from which Python can import the packages `names`, and return its path."""
    with tempfile.TemporaryDirectory() as folder:
        copy_packages(Path(folder), names)
        shutil.make_archive(str(archive.with_suffix("")), "zip", folder)
    return archive


if __name__ == "__main__":
    zip_packages(Path(sys.argv[1]))
