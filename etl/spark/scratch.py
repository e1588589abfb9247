"""The temporary folder of this process, for what it and its JVM write outside the root.

It is deleted at the end of the process. A process that is killed leaves it, and the next one on the
machine deletes it: a lock, which ends with its process, shows which folders are still used.
"""

import fcntl
import shutil
import tempfile
import time
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import IO

PREFIX, LOCK = "mdsrec-etl-", "lock"
SETTLE_SECONDS = 60.0  # from the creation of a folder to its lock, at most

_held: list[tuple[tempfile.TemporaryDirectory[str], IO[str]]] = []


@lru_cache(maxsize=1)
def scratch_folder() -> Path:
    """Return the temporary folder of this process, which is created at the first call."""
    delete_abandoned(Path(tempfile.gettempdir()))
    folder = tempfile.TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True)
    lock = (Path(folder.name) / LOCK).open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    _held.append((folder, lock))
    return Path(folder.name)


def delete_abandoned(parent: Path) -> None:
    """Delete the folders of processes that were killed."""
    for folder in parent.glob(f"{PREFIX}*"):
        with suppress(OSError), (folder / LOCK).open() as lock:
            if time.time() - folder.stat().st_mtime > SETTLE_SECONDS:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # OSError if it is used
                shutil.rmtree(folder, ignore_errors=True)
