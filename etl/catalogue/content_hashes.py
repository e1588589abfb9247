"""Hashes of input files, which identify them wherever they lie.

`<root>/dataset/_content_hashes.json` remembers each hash with the size and modification time of its
file. While these stay the same the file is not read again. What is not remembered, because the JSON
file is absent or damaged or another job has replaced it, is computed again.
"""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pyarrow as pa

from etl.catalogue.raw import RawFile
from etl.spark.progress import step_progress
from mdsrec.errors import InputError
from mdsrec.files import STORAGE_ERRORS, file_system, first_line, read_json, write_json
from mdsrec.tables import table_uri
from mdsrec.text import file_size

log = logging.getLogger("etl")

THREADS = 4
CHUNK_BYTES = 4 << 20

Memory = dict[str, list[str]]  # URI -> state of the file or folder, hash of its content


class ContentHashes:
    """The remembered hashes of one root."""

    def __init__(self, root: str) -> None:
        self._uri = table_uri(root, "_content_hashes.json")
        self._memory = _read_memory(self._uri)

    def recall(self, uri: str, state: str | None) -> str | None:
        """Return the hash of a file or folder if it was remembered in this state."""
        known_state, content_hash = self._memory.get(uri, ["", ""])
        return content_hash if state is not None and state == known_state else None

    def remember(self, new: Mapping[str, tuple[str | None, str]]) -> None:
        """Store (state, hash) by URI. A state of None is unknown, so its hash is not stored."""
        added = {uri: [state, text] for uri, (state, text) in new.items() if state is not None}
        if not added:
            return
        self._memory = _read_memory(self._uri) | added
        try:
            write_json(self._uri, self._memory)
        except STORAGE_ERRORS as error:
            reason = first_line(error)
            log.warning(
                "%s: not written (%s): the input is hashed again next time", self._uri, reason
            )

    def of_files(self, files: Sequence[RawFile]) -> list[str]:
        """Return the SHA-256 of each file's bytes. Only files that have changed are read."""
        known = {file: self.recall(file.uri, file.state) for file in files}
        changed = [file for file, content_hash in known.items() if content_hash is None]
        new = dict(zip(changed, _hash_files(changed), strict=True))
        self.remember({file.uri: (file.state, text) for file, text in new.items()})
        return [known[file] or new[file] for file in files]


def _read_memory(uri: str) -> Memory:
    try:
        content = read_json(uri)
        return {key: [state, text] for key, (state, text) in content.items() if text and state}
    except (*STORAGE_ERRORS, ValueError, TypeError, AttributeError):  # absent or damaged
        return {}


def _hash_files(files: Sequence[RawFile]) -> list[str]:
    bytes_read = dict.fromkeys(files, 0)
    total = file_size(sum(file.size for file in files))

    def progress() -> str:
        return f"input: hashed {file_size(sum(bytes_read.values()))} of {total}"

    with step_progress(progress), ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(partial(_hash_file, bytes_read), files))


def _hash_file(bytes_read: dict[RawFile, int], file: RawFile) -> str:
    content_hash = hashlib.sha256()
    filesystem, path = file_system(file.uri)
    try:
        with filesystem.open_input_stream(path, compression=None) as stream:
            while chunk := stream.read(CHUNK_BYTES):
                content_hash.update(chunk)
                bytes_read[file] += len(chunk)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{file.uri}: cannot be read: {first_line(error)}") from None
    return content_hash.hexdigest()
