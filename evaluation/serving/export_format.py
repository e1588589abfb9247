"""The files of an exported run: enough to score items, and nothing about users.

X items.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from safetensors.numpy import load, save
from scipy.sparse import csr_array

from mdsrec import files
from mdsrec.config import TransitionsConfig
from mdsrec.errors import InputError
from training.data.item_tables import ItemTables, ModalityTables
from training.data.sparse import SparseMatrix
from training.inference import TrainedModel, file_metadata
from training.memory import Memory

VERSION = 1

MANIFEST = "export.json"  # written last: version, channels' weights, SHA-256 of each file
CONFIG = "config.json"  # the run's configuration
CATALOGUE = "items.parquet"  # item_id, title, num_train
WEIGHTS = "weights.safetensors"  # of the network
ITEM_TABLES = "item_tables.safetensors"  # graphs and features that the network reads
MEMORY = "memory.safetensors"  # terms of the memory of transitions
MODEL_CARD = "README.md"


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


def pack_weights(trained: TrainedModel) -> bytes:
    """Return the weights of the network as the file that `load_model` reads."""
    assert trained.model is not None
    arrays = {name: p.detach().cpu().numpy() for name, p in trained.model.named_parameters()}
    return save(arrays, {"dataset": trained.dataset_fingerprint})


def pack_item_tables(item_tables: ItemTables) -> bytes:
    """Return the tables as a safetensors file."""
    arrays = _of_matrix("cooccurrence", item_tables.cooccurrence)
    for name, modality in item_tables.modalities.items():
        arrays |= _of_matrix(f"{name}/adjacency", modality.adjacency)
        arrays |= _of_matrix(f"{name}/membership", modality.membership)
        if modality.features is not None:
            arrays[f"{name}/features"] = modality.features.numpy()
    if item_tables.num_train is not None:
        arrays["num_train"] = item_tables.num_train
    about = {
        "num_items": item_tables.num_items,
        "modalities": list(item_tables.modalities),
        "fingerprints": item_tables.fingerprints,
    }
    return save(arrays, {"about": json.dumps(about)})


def unpack_item_tables(content: bytes) -> ItemTables:
    """Return the tables of `pack_item_tables`."""
    arrays, about = load(content), _about(content)
    modalities = {}
    for name in about["modalities"]:
        features = arrays.get(f"{name}/features")
        modalities[name] = ModalityTables(
            _matrix(f"{name}/adjacency", arrays),
            None if features is None else torch.from_numpy(features),
            _matrix(f"{name}/membership", arrays),
        )
    return ItemTables(
        about["num_items"],
        _matrix("cooccurrence", arrays),
        modalities,
        about["fingerprints"],
        arrays.get("num_train"),
    )


def pack_memory(memory: Memory) -> bytes:
    """Return the memory as a safetensors file."""
    terms = memory.terms
    arrays = {"starts": terms.indptr, "columns": terms.indices, "weights": terms.data}
    return save(arrays, {"about": json.dumps({"fingerprint": memory.fingerprint})})


def unpack_memory(content: bytes, config: TransitionsConfig) -> Memory:
    """Return the memory of `pack_memory`; `config` is the section [transitions] of the run."""
    arrays, about = load(content), _about(content)
    num_items = len(arrays["starts"]) - 1
    parts = arrays["weights"], arrays["columns"], arrays["starts"]
    terms = csr_array(parts, shape=(num_items, num_items))
    return Memory(terms, config, about["fingerprint"])


def _of_matrix(name: str, matrix: SparseMatrix | None) -> dict[str, NDArray[Any]]:
    if matrix is None:
        return {}
    return {
        f"{name}/starts": matrix.starts,
        f"{name}/columns": matrix.columns,
        f"{name}/weights": matrix.weights,
    }


def _matrix(name: str, arrays: Mapping[str, NDArray[Any]]) -> SparseMatrix | None:
    if f"{name}/starts" not in arrays:
        return None
    return SparseMatrix(*(arrays[f"{name}/{part}"] for part in ("starts", "columns", "weights")))


def _about(content: bytes) -> dict[str, Any]:
    about: dict[str, Any] = json.loads(file_metadata(content)["about"])
    return about
