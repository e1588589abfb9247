"""`mdsrec files [configs | cluster] [FOLDER]`: copy files that come with the package."""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from mdsrec.command.stage import path, stage_parser
from mdsrec.errors import InputError
from mdsrec.packages import SOURCE

FILES = {
    "configs": SOURCE / "mdsrec" / "configs",
    "cluster": SOURCE / "cluster",
}
NOT_SHIPPED = (".py", ".pyc")


def main(argv: Sequence[str] | None = None) -> None:
    """List the files, or copy those of one name."""
    parser = stage_parser(
        "mdsrec.command.shipped", "Copy configurations, or files for a cluster, into a folder."
    )
    parser.add_argument(
        "name", metavar="NAME", nargs="?", choices=FILES, help="configs or cluster (default: list)"
    )
    parser.add_argument(
        "folder", metavar="FOLDER", nargs="?", type=path, help="default: the NAME, in this folder"
    )
    given = parser.parse_args(argv)
    if given.name is None:
        for name in FILES:
            print("\n".join(f"{name}/{file}" for file in shipped(name)))
    else:
        print("\n".join(copy_shipped(given.name, Path(given.folder or given.name))))


def shipped(name: str) -> Iterator[Path]:
    """Yield the files of one name, relative to their folder."""
    for file in sorted(FILES[name].rglob("*")):
        if file.is_file() and file.suffix not in NOT_SHIPPED:
            yield file.relative_to(FILES[name])


def copy_shipped(name: str, folder: Path, only: str = "") -> list[str]:
    """Copy the files of one name (or `only` one) into `folder` -> a line for each of them.

    A file that exists is kept.
    """
    if "://" in str(folder):
        raise InputError(f"{folder}: a URI: give a local folder")
    lines = []
    for file in shipped(name):
        if only not in ("", str(file)):
            continue
        target = folder / file
        if target.exists():
            lines.append(f"kept   {target}")
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(FILES[name] / file, target)
        lines.append(f"wrote  {target}")
    return lines
