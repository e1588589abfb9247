"""The files of an exported run: enough to score items, and nothing about users.

X items.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from safetensors.numpy import load

from mdsrec import files
from mdsrec.config import TransitionsConfig
from mdsrec.errors import InputError
from training.checkpoints.tensor_file import file_metadata
from training.data.item_tables import PARTS, ItemTables
from training.data.sparse import SparseMatrix
from training.memory import Memory

VERSION = 1

MANIFEST = "export.json"  # written last: version, channels' weights, SHA-256 of each file
CONFIG = "config.json"  # the run's configuration
CATALOGUE = "items.parquet"  # item_id, title, num_train
WEIGHTS = "weights.safetensors"  # of the network
ITEM_TABLES = "item_tables.safetensors"  # graphs and features that the network reads
MEMORY = "memory.safetensors"  # terms of the memory of transitions
MODEL_CARD = "README.md"
FILES = (CONFIG, CATALOGUE, ITEM_TABLES, MODEL_CARD, WEIGHTS, MEMORY)  # as the manifest lists them


@dataclass(frozen=True)
class ExportManifest:
    """export.json."""

    weight_of: Mapping[str, float]  # of each channel in the whole score
    sha256: Mapping[str, str]  # by name of file
    version: int = VERSION


def read_export(folder: str) -> tuple[ExportManifest, dict[str, bytes]]:
    """Return the manifest and the content of each file.

    InputError if the version is another one, or a file is missing or was changed.
    """
    uri = f"{folder}/{MANIFEST}"
    try:
        stored = dict(files.read_json(uri))
        version = stored.get("version", VERSION)
        manifest = ExportManifest(**stored) if version == VERSION else None
    except (ValueError, TypeError) as error:
        raise InputError(f"{uri}: damaged ({files.first_line(error)}): export again") from None
    if manifest is None:  # of another version, which may have other keys
        raise InputError(
            f"{folder}: exported as version {version}, this program reads {VERSION}: "
            "export the run again"
        )
    contents = {}
    for name, sha256 in manifest.sha256.items():
        content = files.read_bytes(f"{folder}/{name}")
        if content is None or hashlib.sha256(content).hexdigest() != sha256:
            found = "is missing" if content is None else "was changed"
            raise InputError(f"{folder}/{name}: the file {found}: export the run again")
        contents[name] = content
    return manifest, contents


def unpack_item_tables(content: bytes) -> ItemTables:
    """Return the tables in a file ITEM_TABLES."""
    return ItemTables.of(load(content), _about(content))


def unpack_memory(content: bytes, config: TransitionsConfig) -> Memory:
    """Return the memory in a file MEMORY; `config` is the section [transitions] of the run."""
    arrays, about = load(content), _about(content)
    terms = SparseMatrix(*(arrays[part] for part in PARTS))
    return Memory(terms, config, about["fingerprint"])


def _about(content: bytes) -> dict[str, Any]:
    about: dict[str, Any] = json.loads(file_metadata(content)["about"])
    return about
