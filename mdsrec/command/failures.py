"""Failures that come from outside the program, in one line: a full disk, a missing permission.

Spark and Ray wrap what their tasks raise, so an error is searched with all its causes.
"""

import errno
import os
import platform
import re
from collections.abc import Iterator, Mapping

from mdsrec import __version__
from mdsrec.credentials import without_secret
from mdsrec.errors import InputError

AGAIN = "then run the same command again"
OWN_MISTAKE = 1  # exit code of a command that ends with a traceback
REMEDIES = {
    errno.ENOSPC: f"free some disk space, {AGAIN}",
    errno.EDQUOT: f"free some disk space, or raise the quota, {AGAIN}",
    errno.EFBIG: f"allow larger files (`ulimit -f`, or another file system), {AGAIN}",
    errno.EACCES: "give this user the right, or choose another path",
    errno.EPERM: "give this user the right, or choose another path",
    errno.EROFS: "choose a path that can be written",
    errno.ENAMETOOLONG: "choose a shorter path or name",
    errno.ENOTDIR: "a part of this path is a file: choose another path",
    errno.EISDIR: "a folder is where a file belongs: choose another path",
    errno.EEXIST: "a file is where a folder belongs: choose another path",
    errno.ELOOP: "a link leads back to itself: choose another path",
    errno.ENOENT: f"restore it, or build it again, {AGAIN}",
    errno.EMFILE: f"allow more open files (`ulimit -n`), {AGAIN}",
    errno.ENFILE: f"allow more open files on this machine, {AGAIN}",
    errno.ENOMEM: f"free some memory, {AGAIN}",
    errno.EAGAIN: f"allow more processes (`ulimit -u`) or memory, {AGAIN}",
    errno.EIO: f"check the disk, {AGAIN}",
    errno.ESTALE: f"check the network storage, {AGAIN}",
    errno.ECONNREFUSED: f"check that the other side runs, {AGAIN}",
    errno.ECONNRESET: f"check the network, {AGAIN}",
    errno.ETIMEDOUT: f"check the network, {AGAIN}",
    errno.EHOSTUNREACH: f"check the network, {AGAIN}",
}
IN_WORDS = {os.strerror(code): code for code in REMEDIES}
PATTERNS = {  # what tasks of Spark and Ray raise, by its text
    r"OutOfMemoryError: (Java heap space|GC overhead limit)": (
        "Spark ran out of memory: raise spark.driver_memory"
    ),
    r"CUDA out of memory|OutOfMemoryError": (
        "out of memory: lower train.batch_size or eval.user_batch, or use a larger machine"
    ),
    r"due to the node running low on memory": (
        "a machine ran out of memory, so Ray ended processes there: free some, or lower "
        f"train.batch_size or eval.user_batch, {AGAIN}"
    ),
    r"is not a Parquet file|FAILED_READ_FILE|CANNOT_READ_FILE_FOOTER|Could not read footer"
    r"|Parquet magic bytes|Parquet file size|deserialize thrift|Unexpected end of stream": (
        "damaged Parquet: restore the file, or delete its table and run the ETL again"
    ),
}
INNER = re.compile(r"(Error|Exception|errno)\b", re.IGNORECASE)
FILE = re.compile(r"(?:file:)?(/[^\s'\"():]+\.parquet|/[^\s'\"():]+)")


def outside_cause(error: BaseException) -> str | None:
    """Return what the outside did, and the remedy, as one line; None if the mistake is ours."""
    for cause in causes(error):
        if isinstance(cause, InputError):
            return str(cause)
        if isinstance(cause, MemoryError):
            return f"out of memory: {REMEDIES[errno.ENOMEM]}"
        if isinstance(cause, OSError) and cause.errno is not None:
            return _of_system(cause)
        if _is_text_of_others(cause) and (found := _in_text(str(cause))):
            return found
    return None


def _is_text_of_others(error: BaseException) -> bool:
    """Return whether the text of an error may hold that of another one: of Java, or of Arrow."""
    is_of_arrow = isinstance(error, OSError) or type(error).__module__.startswith("pyarrow")
    return is_of_arrow or "\n" in str(error) or bool(INNER.search(str(error)))


def own_mistake() -> str:
    """Return the last line of a traceback: what to do with a mistake of this program."""
    return (
        "this is a mistake of mdsrec, not yours: please report it with the lines above, the "
        f"command and its configuration (mdsrec {__version__}, Python "
        f"{platform.python_version()}, {platform.system()} {platform.machine()})"
    )


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what led to it, also through Spark, Ray and Ray Train; the root first.

    Ray keeps a cause in `cause`, Ray Train in `controller_failure` and `worker_failures`. What was
    merely handled when an error occurred is no cause of it.
    """
    seen: dict[int, BaseException] = {}
    waiting = [error]
    while waiting:
        now = waiting.pop()
        if id(now) in seen:
            continue
        seen[id(now)] = now
        failures = getattr(now, "worker_failures", None)
        inner = [
            now.__cause__,
            getattr(now, "cause", None),
            getattr(now, "controller_failure", None),
            *(failures.values() if isinstance(failures, Mapping) else ()),
        ]
        waiting += [each for each in inner if isinstance(each, BaseException)]
    yield from reversed(seen.values())


def _of_system(error: OSError) -> str:
    """Return the line of an error of the operating system, with the file if it names one."""
    assert error.errno is not None
    text = str(error)
    quoted = re.search(r"'([^']+)'", text)
    file = error.filename or (quoted and quoted[1])
    words = os.strerror(error.errno)
    remedy = REMEDIES.get(error.errno, AGAIN.removeprefix("then "))
    return f"{_shown(file)}: {words}: {remedy}" if file else f"{words}: {remedy}"


def _in_text(text: str) -> str | None:
    """Return the line of an error that only the text of another one holds, as a Java trace."""
    if found := re.findall(r"mdsrec\.errors\.InputError: ([^\n]+)", text):
        return str(found[-1]).strip()
    for line in text.splitlines():
        for words, code in IN_WORDS.items():
            if words in line and INNER.search(line):
                file = FILE.search(line)
                where = f"{_shown(file[1])}: " if file else ""
                return f"{where}{words}: {REMEDIES[code]}"
        for pattern, meaning in PATTERNS.items():
            if re.search(pattern, line):
                file = FILE.search(line)
                return f"{_shown(file[1])}: {meaning}" if file else meaning
    return None


def _shown(file: object) -> str:
    path = os.fsdecode(file) if isinstance(file, str | bytes | os.PathLike) else str(file)
    return without_secret(path)
