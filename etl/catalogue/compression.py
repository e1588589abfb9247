"""Compressed files: gzip, bzip2 and zstd, recognized by their first bytes whatever their name."""

import bz2
import gzip
import io
import re
import zlib
from typing import IO, cast

import pyarrow as pa

from mdsrec.errors import InputError
from mdsrec.files import file_system, first_line

SUFFIXES = ("", ".gz", ".bz2", ".zst")
MAGIC = {
    "gzip": re.compile(rb"\x1f\x8b"),
    "bzip2": re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)"),
    "zstd": re.compile(rb"\x28\xb5\x2f\xfd"),
}
MAGIC_BYTES = 10
BUFFER_BYTES = 1 << 20
STREAM_ERRORS = (EOFError, OSError, zlib.error, pa.ArrowException)


def open_stream(uri: str) -> IO[bytes]:
    """Open a file and decompress it if it starts as a compressed one does."""
    filesystem, path = file_system(uri)
    source = filesystem.open_input_stream(path, compression=None)
    stream = io.BufferedReader(source, BUFFER_BYTES)
    kind = _kind(stream.peek(MAGIC_BYTES))
    if kind == "gzip":
        return cast(IO[bytes], gzip.GzipFile(fileobj=stream))
    if kind == "bzip2":
        return bz2.BZ2File(stream)
    if kind == "zstd":
        return io.BufferedReader(pa.CompressedInputStream(stream, "zstd"), BUFFER_BYTES)
    return stream


def unreadable(uri: str, error: BaseException, where: str = "") -> InputError:
    """Return the error of a stream that broke `where`, as ` after line 12`."""
    of_system = isinstance(error, OSError) and error.errno is not None
    if of_system or (kind := compression_of(uri)) == "":
        return InputError(f"{uri}: cannot be read{where}: {first_line(error)}")
    return InputError(
        f"{uri}: truncated or corrupt {kind}{where} ({first_line(error)}): fetch the file again"
    )


def compression_of(uri: str) -> str:
    """Return the name of a file's compression, '' if it has none."""
    filesystem, path = file_system(uri)
    with filesystem.open_input_stream(path, compression=None) as stream:
        return _kind(stream.read(MAGIC_BYTES))


def without_compression(name: str) -> str:
    """Return a file's name in lower case without the suffix of its compression."""
    name = name.lower()
    return next((name.removesuffix(s) for s in SUFFIXES[1:] if name.endswith(s)), name)


def _kind(head: bytes) -> str:
    return next((kind for kind, magic in MAGIC.items() if magic.match(head)), "")
