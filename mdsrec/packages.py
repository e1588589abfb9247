"""Our packages: found before a user's folders of the same names, and copied to other machines.

Names such as `etl` and `training` are common, so no process searches the current folder for them.
`python -m mdsrec.packages FILE.zip` writes the archive that Spark sends to its executors.
"""

import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from importlib import import_module
from importlib.machinery import PathFinder
from pathlib import Path

PACKAGES = ("mdsrec", "etl", "training", "evaluation", "tuning", "cluster")
ETL_PACKAGES = ("etl", "mdsrec")
DATA_FILES = ("evaluation/report/style.css",)  # that the stages read
SOURCE = Path(__file__).absolute().parent.parent
SITE_PACKAGES = ("site-packages", "dist-packages")  # Python finds packages there by itself


def use_own_packages() -> None:
    """Let this process and its children find our packages first, the current folder last.

    The current folder may hold a model of the user's own.
    """
    os.environ.update(child_environment())
    before = list(sys.path)
    sys.path.insert(0, str(SOURCE))
    for name in PACKAGES:
        if PathFinder.find_spec(name, [str(SOURCE)]):  # an archive holds only ETL_PACKAGES
            import_module(name)  # from now on its modules are found below it
    sys.path[:] = before
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)


def child_environment() -> dict[str, str]:
    """Return the environment of a Python that finds our packages and does not search its folder."""
    path = os.pathsep.join(search_path(os.environ.get("PYTHONPATH", "")))
    return {**os.environ, "PYTHONSAFEPATH": "1", "PYTHONPATH": path}


def search_path(python_path: str) -> list[str]:
    """Return the folders of a PYTHONPATH without the current one, ours first.

    An empty entry means the current folder to Python. A folder `site-packages` stays where Python
    has it, behind the standard library.
    """
    given = [Path(folder).absolute() for folder in python_path.split(os.pathsep)]
    others = [str(folder) for folder in given if folder not in (Path.cwd(), SOURCE)]
    return others if SOURCE.name in SITE_PACKAGES else [str(SOURCE), *others]


def copy_packages(folder: Path, names: Sequence[str] = PACKAGES) -> None:
    """Copy the modules and DATA_FILES of packages into `folder`, nothing else that lies there."""
    for name in names:
        copy_modules(SOURCE / name, folder / name)
    for file in map(Path, DATA_FILES):
        if file.parts[0] in names:
            shutil.copy(SOURCE / file, folder / file)


def copy_modules(package: Path, target: Path) -> int:
    """Copy the modules of a package and of those below it; return how many files are left out.

    A module is a file NAME.py that Python can import.
    """
    left_out = 0
    target.mkdir(parents=True)
    for entry in sorted(package.iterdir()):
        if entry.is_dir():
            if (entry / "__init__.py").exists():
                left_out += copy_modules(entry, target / entry.name)
            elif entry.name != "__pycache__":
                left_out += sum(file.is_file() for file in entry.rglob("*"))
        elif entry.suffix == ".py" and entry.stem.isidentifier():
            shutil.copy(entry, target)
        else:
            left_out += 1
    return left_out


def zip_packages(archive: Path, names: Sequence[str] = ETL_PACKAGES) -> Path:
    """Write a .zip from which Python can import the packages `names`, and return its path."""
    with tempfile.TemporaryDirectory() as folder:
        copy_packages(Path(folder), names)
        shutil.make_archive(str(archive.with_suffix("")), "zip", folder)
    return archive


if __name__ == "__main__":
    zip_packages(Path(sys.argv[1]))
