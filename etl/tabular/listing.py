"""The files behind `input.interactions` and `input.items`: files, folders and patterns."""

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

import pyarrow as pa
from pyarrow import fs

from etl.catalogue import compression
from etl.catalogue.raw import RawFile, is_hidden, raw_files, utf8_names
from mdsrec.config import InputConfig
from mdsrec.errors import InputError
from mdsrec.files import file_system, first_line, join

CSV, JSON_LINES, PARQUET = "CSV", "JSON lines", "Parquet"
KINDS = {
    **dict.fromkeys((".csv", ".tsv", ".tab", ".txt"), CSV),
    **dict.fromkeys((".json", ".jsonl", ".ndjson"), JSON_LINES),
    **dict.fromkeys((".parquet", ".pq"), PARQUET),
}
SUFFIXES = tuple(
    suffix + packed
    for suffix, kind in KINDS.items()
    for packed in compression.SUFFIXES
    if not packed or kind != PARQUET
)
WILD = "*?["


def kind_of(uri: str) -> str:
    """Return the kind of a file by its suffix: CSV, JSON lines or Parquet."""
    name = uri.partition("?")[0] if "://" in uri else uri
    for suffix, kind in KINDS.items():
        if compression.without_compression(name).endswith(suffix):
            return kind
    raise InputError(f"{uri}: its name ends in none of {', '.join(KINDS)}: rename the file")


def input_files(config: InputConfig, names: Sequence[str]) -> list[RawFile]:
    """Return the files of `names` in order; those of a folder or pattern are sorted by path.

    What a Spark source loads is returned as files without a size.
    """
    if config.source is not None:
        return [RawFile(name, 0, None) for name in names]
    uris = [uri for name in names for uri in _expanded(name)]
    found = raw_files(uris, SUFFIXES)
    for position, file in enumerate(found):
        if file in found[:position]:
            raise InputError(f"{file.uri} is listed twice: remove one")
        kind_of(file.uri)
        if file.size == 0:
            raise InputError(f"{file.uri}: the file is empty")
    return found


def _expanded(name: str) -> Iterator[str]:
    """Yield the files that match a pattern, or the name itself if it is none.

    A `?` of a URI starts its options, so there only `*` and `[` are wild.
    """
    wild = WILD if "://" not in name else WILD.replace("?", "")
    parts = name.split("/")
    first = next((n for n, part in enumerate(parts) if set(part) & set(wild)), None)
    if first is None or _exists(name):
        yield name
        return
    if "**" in name:
        raise InputError(f"{name}: ** is not supported: write a * for each folder, as in */*.csv")
    folder, pattern = "/".join(parts[:first]), parts[first:]
    found = [path for path in _paths_below(folder, name) if _matches(path.split("/"), pattern)]
    if not found:
        raise InputError(f"{name}: no file matches this pattern")
    yield from (join(folder, path) for path in sorted(found))


def _exists(name: str) -> bool:
    if "://" in name:
        return False
    filesystem, path = file_system(name)
    return bool(filesystem.get_file_info(path).type != fs.FileType.NotFound)


def _paths_below(folder: str, name: str) -> Iterator[str]:
    filesystem, path = file_system(folder or "/")
    deep = "/" in name.removeprefix(folder)[1:]
    try:
        infos = filesystem.get_file_info(fs.FileSelector(path, recursive=deep))
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{name}: cannot be listed: {first_line(error)}") from None
    with utf8_names(folder):
        for info in infos:
            if info.type == fs.FileType.File:
                yield info.path.removeprefix(path).lstrip("/")


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Return whether a path matches a pattern; a hidden name, only one that begins like it."""
    pairs = zip(parts, pattern, strict=False)
    return len(parts) == len(pattern) and all(
        fnmatchcase(part, wild) and (not is_hidden(part) or part[0] == wild[0])
        for part, wild in pairs
    )
