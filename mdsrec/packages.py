"""Our packages as files, for processes that have none installed.

`python -m mdsrec.packages FILE.zip` writes those that the ETL needs, as Spark sends them.
"""

import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

PACKAGES = ("mdsrec", "etl", "training", "evaluation", "tuning", "cluster")
OF_ETL = ("etl", "mdsrec")
OURS = Path(__file__).absolute().parent.parent


def copy_packages(folder: Path, names: Sequence[str] = PACKAGES) -> None:
    """Copies of `names` below `folder`, without what Python made of them."""
    for name in names:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(OURS / name, folder / name, ignore=ignored)


def zip_packages(archive: Path, names: Sequence[str] = OF_ETL) -> Path:
    """`archive`, a new .zip from which Python imports `names`."""
    with tempfile.TemporaryDirectory() as folder:
        copy_packages(Path(folder), names)
        shutil.make_archive(str(archive.with_suffix("")), "zip", folder)
    return archive


if __name__ == "__main__":
    zip_packages(Path(sys.argv[1]))
