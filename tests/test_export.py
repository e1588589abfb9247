"""Exports in bounded memory: the same bytes as from one process that holds all items."""

import hashlib
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.numpy import load_file, save
from safetensors.torch import save_file
from shared_items import NUM_ITEMS, shared_experiment, write_shared_dataset, write_shared_run
from small_dataset import write_categories

from evaluation.serving import catalogue, export_arrays
from evaluation.serving.catalogue import COLUMNS, Catalogue
from evaluation.serving.export import export
from evaluation.stored_weights import rivals_recipe
from mdsrec import files
from mdsrec.config import Experiment
from mdsrec.errors import InputError
from mdsrec.run_paths import RunPaths
from training.checkpoints.stored_weights import StoredWeights
from training.checkpoints.tensor_file import write_arrays
from training.data.disk_arrays import DiskArrays
from training.data.item_tables import PARTS, load_item_tables
from training.inference import load_trained

MODELS: list[tuple[str, dict[str, Any]]] = [
    ("mdsrec", {"memory": True}),
    ("bert4rec", {}),
    ("missrec", {}),
    ("transitions", {}),
]


def shared_run(root: Path, name: str, model: dict[str, Any], **damage: Any) -> Experiment:
    experiment = shared_experiment(root, name, model=model)
    write_shared_dataset(experiment)
    write_shared_run(experiment, **damage)
    if name == "mdsrec":
        trained, uri = load_trained(experiment), RunPaths.of(experiment).weights
        rivals = rivals_recipe(experiment, trained).fingerprint
        weights = dict.fromkeys(trained.channels, 0.5)
        files.write_json(uri, {"rivals": rivals, "targets": 0, "weights": weights, "ndcg": {}})
    return experiment


def whole_files(experiment: Experiment) -> dict[str, bytes]:
    """Return the data of an export from a model and tables that one process holds."""
    trained, item_tables = load_trained(experiment), load_item_tables(experiment)
    modalities = {n: replace(m, centers=None) for n, m in item_tables.modalities.items()}
    kept, rows = replace(item_tables, modalities=modalities), Catalogue.read(experiment)
    sink = io.BytesIO()
    columns = [rows.item_ids, rows.titles, pa.array(rows.num_train)]
    pq.write_table(pa.table(columns, names=COLUMNS), sink, compression="zstd")
    found = {
        "item_tables.safetensors": save(kept.arrays(), {"about": json.dumps(kept.about())}),
        "items.parquet": sink.getvalue(),
    }
    if trained.model is not None:
        weights = {n: p.detach().numpy() for n, p in trained.model.named_parameters()}
        found["weights.safetensors"] = save(weights, {"dataset": trained.dataset_fingerprint})
    if trained.memory is not None:
        terms = {part: getattr(trained.memory.terms, part) for part in PARTS}
        about = json.dumps({"fingerprint": trained.memory.fingerprint})
        found["memory.safetensors"] = save(terms, {"about": about})
    return found


def divide(experiment: Experiment, num_parts: int, order: np.ndarray | None) -> None:
    """Store rows of items in one file for each rank, as a sharded training does."""
    uri = RunPaths.of(experiment).best_weights
    weights, metadata = load_file(uri), StoredWeights(uri).metadata
    items = np.arange(NUM_ITEMS) if order is None else order
    of_items = {name: w for name, w in weights.items() if len(w) == NUM_ITEMS}
    names = [f"best-x-{rank:05d}-of-{num_parts:05d}.safetensors" for rank in range(num_parts)]
    for name, part in zip(names, np.array_split(items, num_parts), strict=True):
        rows = {key: torch.from_numpy(weight[part]) for key, weight in of_items.items()}
        if order is not None:
            rows["items"] = torch.from_numpy(part.astype(np.int32))
        save_file(rows, Path(uri).parent / name)
    dense = {key: torch.from_numpy(w) for key, w in weights.items() if key not in of_items}
    save_file(dense, uri, {**metadata, "parts": json.dumps(names)})


def exported(experiment: Experiment, folder: Path) -> dict[str, bytes]:
    export(RunPaths.of(experiment).uri, str(folder))
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize(("name", "model"), MODELS)
def test_an_export_has_the_bytes_of_one_from_a_process_that_holds_all_items(tmp_path, name, model):
    experiment = shared_run(tmp_path, name, model)
    expected, found = whole_files(experiment), exported(experiment, tmp_path / "exported")
    texts = found.keys() - expected.keys()
    assert texts == {"README.md", "config.json", "export.json"}
    assert [name for name in expected if found[name] != expected[name]] == []
    sha256 = json.loads(found["export.json"])["sha256"]
    assert {n: hashlib.sha256(c).hexdigest() for n, c in expected.items()}.items() <= sha256.items()


@pytest.mark.parametrize("is_ordered", [False, True])
def test_an_export_of_weights_in_parts_has_the_same_bytes_for_any_number_of_ranks(
    tmp_path, is_ordered
):
    experiment = shared_run(tmp_path, "bert4rec", {})
    whole = exported(experiment, tmp_path / "whole")["weights.safetensors"]
    order = np.random.default_rng(0).permutation(NUM_ITEMS) if is_ordered else None
    for num_parts in (1, 2, 3, 4):
        write_shared_run(experiment)
        divide(experiment, num_parts, order)
        found = exported(experiment, tmp_path / str(num_parts))["weights.safetensors"]
        assert found == whole, num_parts


def test_damaged_rows_are_named_by_their_items_and_nothing_is_written(tmp_path):
    experiment = shared_run(tmp_path, "sasrec", {}, damaged=(5, 2050))
    divide(experiment, 3, np.arange(NUM_ITEMS)[::-1])
    message = r"the weights are damaged: item_embedding is not finite for items 5, 2050$"
    with pytest.raises(InputError, match=message):
        exported(experiment, tmp_path / "exported")
    assert not [*(tmp_path / "exported").glob("*.safetensors")]


def test_weights_that_change_during_an_export_are_refused(tmp_path, monkeypatch):
    experiment = shared_run(tmp_path, "sasrec", {})
    read = export_arrays._stored_rows

    def read_and_train_on(*arguments: Any) -> Any:
        rows = read(*arguments)
        divide(experiment, 2, np.arange(NUM_ITEMS)[::-1])
        return rows

    monkeypatch.setattr(export_arrays, "_stored_rows", read_and_train_on)
    with pytest.raises(InputError, match=r"best\.safetensors: replaced by another job"):
        exported(experiment, tmp_path / "exported")


def test_arrays_are_written_as_safetensors_writes_them():
    arrays = {
        "b": np.arange(3, dtype=np.float32),
        "a": np.arange(2, dtype=np.int64),
        "é/c": np.ones((1, 2), dtype=np.int32),
        "empty": np.zeros((0, 4), dtype=np.float32),
    }
    stream, about = io.BytesIO(), {"about": '{"é": "x"}'}
    write_arrays(stream, arrays, about, lambda: None)
    assert stream.getvalue() == save(arrays, about)


@pytest.mark.parametrize("categories", [False, True])
def test_a_catalogue_of_several_row_groups_is_that_of_a_plain_write(
    tmp_path, monkeypatch, categories
):
    experiment = shared_run(tmp_path, "transitions", {})
    if categories:
        write_categories(experiment.root)
    monkeypatch.setattr(catalogue, "ROW_GROUP", 1000)
    found = exported(experiment, tmp_path / "exported")["items.parquet"]
    rows = pq.read_table(io.BytesIO(found))
    assert rows.column_names == COLUMNS + ["category"] * categories
    plain = io.BytesIO()
    pq.write_table(rows, plain, compression="zstd", row_group_size=1000)
    assert found == plain.getvalue()
    assert pq.ParquetFile(io.BytesIO(found)).num_row_groups == 4


def resident_bytes() -> int:
    """Return the bytes of files that are mapped into this process and in memory."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssFile:")[1].split()[0]) << 10


def test_arrays_on_the_disk_take_no_memory_of_the_process_once_they_are_dropped():
    disk, before = DiskArrays(), resident_bytes()
    array = disk.zeros((16, 1 << 20), np.int32)
    array[:] = 7
    assert resident_bytes() - before > array.nbytes / 2
    disk.drop_pages()
    assert resident_bytes() - before < array.nbytes / 8
    assert (array == 7).all()


def test_a_disk_without_room_is_named():
    with pytest.raises(InputError, match=r"no room for .* MiB of temporary files"):
        DiskArrays().zeros(1 << 55, np.int8)
