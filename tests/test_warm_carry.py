"""The weights of a run, carried to the tables of another experiment."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from catalogues import experiment_on, write_catalogue, write_run
from torch import Tensor

from mdsrec import files, tables
from mdsrec.config import Experiment
from mdsrec.config.model_base import TransformerConfig
from mdsrec.errors import InputError
from mdsrec.run_paths import RunPaths
from training.checkpoints.carried_record import CarriedRecord
from training.checkpoints.stored_weights import StoredWeights
from training.data.item_tables import load_item_tables
from training.data.table_checks import check_item_tables
from training.models.registry import MODELS, build_model
from training.models.sasrec import SASRec
from training.warm import carry, graphs
from training.warm.carry import write_carried
from training.warm.initial_weights import InitialWeights
from training.warm.source import SourceRun

# Of the first catalogue, a to f have training events; g and h have none.
FIRST = list("abcdefgh")
HISTORIES = [list("abcab"), list("cdefa"), list("efcdb"), list("abcgh")]
# The second has lost b and h, and has new items x, y and z; z has no modality.
SECOND = list("acdefgxyz")
LATER = [list("acxac"), list("cdefa"), list("xyzac"), list("cafgz")]
NEAR = {
    "text": {"a": list("cdefg"), "c": list("ad"), "g": list("xac"), "x": list("yace"), "y": ["x"]},
    "image": {"a": list("cdefg"), "c": list("adefg"), "x": list("fgea"), "g": [], "d": [], "e": []},
}


class Own(SASRec):
    """A model of the user's own, which declares its item parameters."""

    config: TransformerConfig  # type: ignore[assignment]


class Undeclared(Own):
    """One that does not."""

    item_parameters = ()


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    first, second = (tmp_path_factory.mktemp(name) for name in ("first", "second"))
    near = {"text": {i: [j for j in FIRST if j != i] for i in FIRST}}
    write_catalogue(first, FIRST, HISTORIES, {**near, "image": near["text"]})
    write_catalogue(second, SECOND, LATER, NEAR, seed=1)
    return first, second


def carried(
    source: Experiment, target: Experiment, folder: Path
) -> tuple[CarriedRecord, dict[str, Tensor]]:
    """Carry the weights of a run -> the record, and the weights by name."""
    uri = str(folder / "carried.safetensors")
    record = write_carried(SourceRun.open(RunPaths.of(source).uri), target, uri)
    stored = StoredWeights(uri)
    assert CarriedRecord.of(stored.metadata, uri) == record
    return record, stored.tensors()


def initial(experiment: Experiment) -> dict[str, Tensor]:
    model = build_model(experiment, load_item_tables(experiment))
    model.initialize(experiment.seed)
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("name", [*MODELS, "test_warm_carry:Own"])
def test_every_model_carries_rows_by_item_id_and_the_rest_by_name(
    name: str, roots: tuple[Path, Path], tmp_path: Path
) -> None:
    source, target = (experiment_on(root, name) for root in roots)
    source, target = (e.model_copy(update={"name": "run"}) for e in (source, target))
    before = write_run(source)
    record, after = carried(source, target, tmp_path)
    fresh = initial(target)
    assert {n: t.shape for n, t in after.items()} == {n: t.shape for n, t in fresh.items()}
    for item, item_id in enumerate("acdef"):
        row = before["item_embedding"][FIRST.index(item_id)]
        assert torch.equal(after["item_embedding"][item], row), item_id
    e = {i: before["item_embedding"][FIRST.index(i)] for i in "abcdef"}
    g, x, y, z = after["item_embedding"][5:]
    torch.testing.assert_close(g, (e["a"] + e["c"]) / 2)  # in text only; x is not trained
    in_text, in_image = (e["a"] + e["c"] + e["e"]) / 3, (e["f"] + e["e"] + e["a"]) / 3
    torch.testing.assert_close(x, (in_text + in_image) / 2)
    assert torch.equal(y, fresh["item_embedding"][7])  # knows only x
    assert torch.equal(z, fresh["item_embedding"][8])
    dense = before.keys() - {"item_embedding", "item_bias", "fusion"}
    assert all(torch.equal(after[each], before[each]) for each in dense)
    assert (record.items_carried, record.items_from_neighbors) == (5, 2)
    assert (record.items_initial, record.items_dropped) == (2, 2)  # y and z; b and h
    assert (record.weights_carried, record.weights_initial) == (len(dense), [])


@pytest.mark.parametrize("name", MODELS)
def test_initial_weights_are_those_of_a_model_with_all_rows(
    name: str, roots: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.models.initial_rows.BLOCK", 4)
    experiment = experiment_on(roots[1], name, train={"loss": "sampled", "negatives": "in_batch"})
    fresh, found = initial(experiment), InitialWeights(experiment, len(SECOND))
    assert found.shapes == {n: tuple(t.shape) for n, t in fresh.items()}
    items = np.array([2, 3, 8])
    for each, rows in found.rows(items).items():
        assert torch.equal(rows, fresh[each][items]), each
    for each in found.shapes.keys() - found.item_parameters:
        assert torch.equal(found.dense(each), fresh[each]), each


def test_the_biases_of_items_are_carried_too(roots: tuple[Path, Path], tmp_path: Path) -> None:
    source, target = (experiment_on(root, "bert4rec") for root in roots)
    bias = write_run(source)["item_bias"]
    _, after = carried(source, target, tmp_path)
    a, c, f = (bias[FIRST.index(i)] for i in "acf")
    assert torch.equal(after["item_bias"][[0, 1, 4]], torch.stack([a, c, f]))
    torch.testing.assert_close(after["item_bias"][5], (a + c) / 2)
    assert after["item_bias"][8] == 0


def test_a_weight_that_the_source_lacks_is_initial_and_one_that_is_not_needed_is_dropped(
    roots: tuple[Path, Path], tmp_path: Path
) -> None:
    source = experiment_on(roots[0], "bert4rec", model={"temperature": 0.1})  # without biases
    target = experiment_on(roots[1], "bert4rec", model={"num_layers": 3})
    write_run(source)
    record, after = carried(source, target, tmp_path)
    third = sorted(name for name in after if ".blocks.2." in name)
    assert record.weights_initial == sorted([*third, "item_bias"])
    assert all(torch.equal(after[name], initial(target)[name]) for name in third)
    assert record.items_carried == 5
    assert "initial (encoder.blocks.2." in record.weights_text
    write_run(target)
    back, _ = carried(target, source.model_copy(update={"name": "again"}), tmp_path)
    assert back.weights_dropped == record.weights_initial


def test_the_file_names_its_tables_and_its_source(roots: tuple[Path, Path], tmp_path: Path) -> None:
    source, target = (experiment_on(root, "sasrec") for root in roots)
    write_run(source)
    record, _ = carried(source, target, tmp_path)
    best = StoredWeights(RunPaths.of(source).best_weights)
    assert record.source_weights == best.fingerprint()
    assert record.tables == check_item_tables(target)
    assert record.dataset == tables.fingerprint(record.tables)
    stored = StoredWeights(str(tmp_path / "carried.safetensors"))
    assert stored.metadata["dataset"] == load_item_tables(target).fingerprint


@pytest.mark.parametrize(
    ("name", "there", "here", "message"),
    [
        ("sasrec", {"dim": 16}, {}, r"encoder.+ has shape \(16,\).*model.dim is 16 there and 8"),
        ("sasrec", {}, {"max_length": 9}, "position_embedding .*model.max_length is 6 there and 9"),
        ("gru4rec", {"hidden_dim": 7}, {}, "model.hidden_dim is 7 there and 6 here"),
        ("mmmlp", {"modalities": ["text"]}, {}, r"model.modalities is \['text'\] there and None"),
        ("unisrec", {"modalities": ["image"]}, {}, "numbers its weights by them"),
    ],
)
def test_weights_of_another_shape_are_refused_with_the_key_that_differs(
    name: str,
    there: dict[str, Any],
    here: dict[str, Any],
    message: str,
    roots: tuple[Path, Path],
    tmp_path: Path,
) -> None:
    source = experiment_on(roots[0], name, model=there)
    target = experiment_on(roots[1], name, model=here)
    write_run(source)
    with pytest.raises(InputError, match=f"{RunPaths.of(source).uri}: .*{message}"):
        carried(source, target, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_model_that_declares_no_rows_of_items_is_refused_on_another_catalogue(
    roots: tuple[Path, Path], tmp_path: Path
) -> None:
    source, target = (experiment_on(root, "test_warm_carry:Undeclared") for root in roots)
    source, target = (e.model_copy(update={"name": "own"}) for e in (source, target))
    write_run(source)
    with pytest.raises(InputError, match=r"item_embedding has shape \(8, 8\).*\(9, 8\)"):
        carried(source, target, tmp_path)


def test_a_folder_that_is_no_run_or_whose_items_are_gone_is_refused(
    roots: tuple[Path, Path], tmp_path: Path
) -> None:
    source, target = (experiment_on(root, "sasrec") for root in roots)
    with pytest.raises(InputError, match="not the folder of a trained run"):
        SourceRun.open(f"{roots[0]}/runs/none")
    write_run(source)
    files.write_json(RunPaths.of(source).dataset, {"items": "another"})
    with pytest.raises(InputError, match="trained on the table items another; "):
        carried(source, target, tmp_path)


def test_without_tables_of_neighbors_new_items_are_initial_and_a_line_says_why(
    roots: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source, target = (experiment_on(root, "sasrec") for root in roots)
    target = target.model_copy(
        update={"graph": target.graph.model_copy(update={"whiten": not target.graph.whiten})}
    )
    write_run(source)
    record, _ = carried(source, target, tmp_path)
    assert (record.items_from_neighbors, record.items_initial) == (0, 4)
    assert "new items get no rows over the modality text" in caplog.text
    assert "no such table" in caplog.text
    assert len(graphs.open_graphs(experiment_on(roots[1], "sasrec"))) == 2


def test_a_source_that_is_trained_again_meanwhile_is_refused(
    roots: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = (experiment_on(root, "sasrec") for root in roots)
    write_run(source)
    collect = carry.collect_rows

    def collected(*arguments: Any) -> Any:
        write_run(source, seed=4)
        return collect(*arguments)

    monkeypatch.setattr(carry, "collect_rows", collected)
    with pytest.raises(InputError, match="replaced by another job meanwhile"):
        carried(source, target, tmp_path)
    assert not list(tmp_path.iterdir())
