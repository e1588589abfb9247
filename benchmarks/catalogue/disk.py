"""Speed of a writer, beside that of a plain write of zeros to the same disk."""

import os
import time
from pathlib import Path
from types import TracebackType

from mdsrec.text import file_size

PLAIN_BYTES = 1 << 30
PIECE = bytes(4 << 20)


class Writing:
    """A context that prints how fast the files below `folder` were written.

    `beside_disk` also measures a plain write. Both then end when the bytes are on the disk.
    """

    def __init__(self, folder: Path, beside_disk: bool) -> None:
        self.folder, self.beside_disk = folder, beside_disk
        self.before = bytes_below(folder)
        self.started, self.used = time.perf_counter(), time.process_time()

    def __enter__(self) -> "Writing":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            return
        if self.beside_disk:
            _flush(self.folder)
        seconds, used = time.perf_counter() - self.started, time.process_time() - self.used
        written = bytes_below(self.folder) - self.before
        speed, of_core = written / seconds / 1e6, written / used / 1e6
        print(
            f"wrote {file_size(written)} in {seconds:.1f} s, {speed:.0f} MB/s; "
            f"{used:.1f} s of CPU, {of_core:.0f} MB a second of it"
        )
        if self.beside_disk:
            print(f"a plain write to this disk: {plain_speed(self.folder) / 1e6:.0f} MB/s")


def _flush(folder: Path) -> None:
    """Wait until the files below a folder are on the disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())


def bytes_below(folder: Path) -> int:
    """Return the size of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def plain_speed(folder: Path) -> float:
    """Write PLAIN_BYTES of zeros to a file, delete it, and return bytes per second."""
    path, started = folder / "plain", time.perf_counter()
    try:
        with path.open("wb", buffering=0) as file:
            for _ in range(PLAIN_BYTES // len(PIECE)):
                file.write(PIECE)
            os.fsync(file.fileno())
        return PLAIN_BYTES / (time.perf_counter() - started)
    finally:
        path.unlink()
