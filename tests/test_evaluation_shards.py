"""Evaluation by groups of actors that share the items: the same bytes as with one actor."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gloo import on_ranks
from safetensors.torch import save_file
from shared_items import (
    OTHER,
    TWIN,
    shared_experiment,
    write_shared_dataset,
    write_shared_run,
)
from small_dataset import write_categories
from torch import distributed

from evaluation.actors.group import Member
from evaluation.actors.shard_worker import ShardWorker
from evaluation.case_study import TopWorker
from evaluation.channel_weights import RivalWorker
from evaluation.pool import Pool, shards_of
from evaluation.recommend import Options, recommend
from evaluation.run import evaluate
from evaluation.workers import ItemVectorWorker, RankWorker, RecommendWorker, UserVectorWorker
from mdsrec import schema, tables
from mdsrec.config import Experiment
from mdsrec.config.training import EvalConfig
from mdsrec.errors import InputError
from mdsrec.run_paths import RunPaths
from training.checkpoints import stored_weights
from training.checkpoints.stored_weights import StoredWeights
from training.data import column_blocks
from training.data.column_blocks import products_in_blocks, times_in_blocks
from training.data.sparse import SparseMatrix
from training.inference import SEEN, load_trained
from training.own_share.loading import load_share

CPU = torch.device("cpu")
TABLES: dict[str, tuple[type[ShardWorker], Any]] = {
    "ranks": (RankWorker, None),
    "recommendations": (RecommendWorker, Options(9, True)),
    "recommendations in a category": (RecommendWorker, Options(9, True, category="Music")),
    "users": (UserVectorWorker, None),
    "items": (ItemVectorWorker, None),
    "rivals": (RivalWorker, 2),
}
WITH_MEMORY = "mdsrec", {"memory": True, "temperature": 0.12}
FEW = [  # models, each with the sizes of the groups that are compared with one actor
    (WITH_MEMORY, (3,)),
    pytest.param(("bert4rec", {}), (4,), marks=pytest.mark.slow),
]
MANY = [
    ((name, {"temperature": temperature}), (2, 3, 4, 5))
    for name in ("mdsrec", "sasrec", "bert4rec", "sasrecf", "fdsa", "gru4recf", "mmmlp")
    for temperature in (0.0, 0.1)
] + [
    (("unisrec", {}), (2, 3, 4, 5)),
    (("missrec", {}), (2, 3, 4, 5)),
    (("mdsrec", {"item_graph": False, "memory": True}), (2, 3, 4, 5)),
    (("transitions", {}), (2, 3, 4, 5)),
]


def shared_run(root: Path, name: str, model: dict[str, Any], **sections: Any) -> Experiment:
    experiment = shared_experiment(root, name, model=model, **sections)
    write_shared_dataset(experiment)
    write_categories(experiment.root)
    write_shared_run(experiment)
    return experiment


def write_tables(
    experiment: Experiment, weight_of: dict[str, float], folder: str, columns: int, member: Member
) -> None:
    """Write all tables of a run, as an actor whose group has a process group already."""
    column_blocks.COLUMNS = columns
    for name, (actor, options) in TABLES.items():
        worker = actor(experiment, weight_of, options, member=member)
        Path(folder, name).mkdir(parents=True, exist_ok=True)
        for shard in shards_of(actor.total(experiment), experiment.eval):
            worker.write_part(shard, f"{folder}/{name}")
    top = TopWorker(experiment, weight_of, [*range(0, 40, 3)], member=member).answer()
    if member.rank == 0:
        Path(folder, "top.json").write_text(json.dumps(top.items))


def write_tables_of_rank(*arguments: Any) -> None:
    write_tables(*arguments, Member(distributed.get_rank(), distributed.get_world_size()))


def content(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*.*")}


def check_same_bytes(
    root: Path, model: tuple[str, dict[str, Any]], sizes: tuple[int, ...], columns: int
) -> None:
    experiment = shared_run(root / "data", *model)
    weight_of = dict(load_trained(experiment).weight_of)
    if SEEN in weight_of:
        weight_of[SEEN] = -0.25
    write_tables(experiment, weight_of, str(root / "1"), columns, Member(0, 1))
    expected = content(root / "1")
    assert len(expected) == 5 * 20 + 97 + 1  # two users in a part
    for size in sizes:
        arguments = experiment, weight_of, str(root / str(size)), columns
        on_ranks(size, write_tables_of_rank, *arguments)
        found = content(root / str(size))
        assert found.keys() == expected.keys()
        assert [name for name in found if found[name] != expected[name]] == []


@pytest.mark.parametrize(("model", "sizes"), FEW)
def test_tables_have_the_same_bytes_for_any_number_of_item_shards(
    tmp_path, monkeypatch, model, sizes
):
    monkeypatch.setattr(column_blocks, "COLUMNS", column_blocks.COLUMNS)
    check_same_bytes(tmp_path, model, sizes, 1000)


@pytest.mark.slow
@pytest.mark.parametrize("columns", [300, 1 << 16])
@pytest.mark.parametrize(("model", "sizes"), MANY)
def test_tables_of_every_model_have_the_same_bytes(tmp_path, monkeypatch, model, sizes, columns):
    monkeypatch.setattr(column_blocks, "COLUMNS", column_blocks.COLUMNS)
    check_same_bytes(tmp_path, model, sizes, columns)


def load_of_rank(experiment: Experiment) -> str:
    try:
        load_share(experiment, CPU)
    except InputError as error:
        return str(error)
    return ""


def test_items_with_damaged_weights_are_named_by_every_process(tmp_path):
    experiment = shared_experiment(tmp_path, "sasrec")
    write_shared_dataset(experiment)
    write_shared_run(experiment, damaged=(5, 2050))
    uri = RunPaths.of(experiment).best_weights
    expected = f"{uri}: the weights are damaged: item_embedding is not finite for items 5, 2050"
    assert on_ranks(3, load_of_rank, experiment) == [expected] * 3
    with pytest.raises(InputError) as raised:
        load_trained(experiment)
    assert str(raised.value) == expected


def test_many_damaged_items_are_counted(tmp_path):
    experiment = shared_experiment(tmp_path, "bert4rec")
    write_shared_dataset(experiment)
    write_shared_run(experiment, damaged=tuple(range(10, 1010)))
    with pytest.raises(InputError, match=r"for items 10, 11, 12, 13, 14 and 995 more$"):
        load_trained(experiment)


def test_products_in_blocks_are_those_of_one_process_bit_by_bit(monkeypatch):
    monkeypatch.setattr(column_blocks, "COLUMNS", 64)
    monkeypatch.setattr(column_blocks, "ROWS", 7)
    random = np.random.default_rng(0)
    dense = torch.randn(300, 5)
    is_entry = random.random((41, 300)) < 0.2
    is_entry[[0, 9, 40]] = False
    starts = np.append(0, np.cumsum(is_entry.sum(1)))
    weights = random.random(starts[-1]).astype(np.float32)
    matrix = SparseMatrix(starts, np.nonzero(is_entry)[1].astype(np.int32), weights)
    entries = matrix.select(np.arange(41), CPU)
    whole = times_in_blocks(entries, dense)
    [streamed] = products_in_blocks([matrix], torch.split(dense, 64))
    assert torch.equal(whole, streamed)
    assert not torch.equal(whole, entries.times(dense))  # which rounds in another order
    torch.testing.assert_close(whole, entries.times(dense))
    few = matrix.select(np.arange(41), CPU)._replace(columns=entries.columns % 64)
    assert torch.equal(times_in_blocks(few, dense[:64]), few.times(dense[:64]))


@pytest.mark.parametrize("order", [None, [5, 0, 6, 2, 1, 3, 4]])
def test_rows_of_weights_are_read_from_the_parts_that_have_them(tmp_path, monkeypatch, order):
    monkeypatch.setattr(stored_weights, "ROWS", 2)
    expected = torch.arange(21.0).view(7, 3)
    items = torch.tensor(order or range(7), dtype=torch.int32)
    parts = []
    for number, part in enumerate(torch.tensor_split(items, [4, 4])):
        tensors = {"rows": expected[part.long()]} | ({"items": part.clone()} if order else {})
        parts.append(f"best-{number}.safetensors")
        save_file(tensors, tmp_path / parts[-1])
    main = tmp_path / "best.safetensors"
    save_file({"dense": torch.ones(2)}, main, {"parts": json.dumps(parts)})
    stored = StoredWeights(str(main))
    for first, last in ((0, 7), (3, 5), (4, 4), (5, 7)):
        assert torch.equal(stored.rows("rows", first, last), expected[first:last])
    with pytest.raises(InputError, match="rows has 7 rows, the data set has more items"):
        stored.rows("rows", 5, 8)


def with_shards(experiment: Experiment, size: int) -> Experiment:
    settings = experiment.eval.model_copy(update={"item_shards": size})
    return experiment.model_copy(update={"eval": settings})


@pytest.mark.ray
def test_more_item_shards_than_processors_are_refused(tmp_path, shared_ray):
    experiment = with_shards(shared_run(tmp_path, "sasrec", {}), 1000)
    with pytest.raises(InputError, match=r"eval\.item_shards = 1000: needs as many CPUs, the "):
        Pool(RankWorker, 1, experiment, {}, None)


@pytest.mark.ray
def test_a_group_of_actors_names_damaged_items_in_one_line(tmp_path, shared_ray):
    experiment = shared_experiment(tmp_path, "sasrec", eval={"item_shards": 2})
    write_shared_dataset(experiment)
    write_shared_run(experiment, damaged=(OTHER,))
    with pytest.raises(InputError) as raised:
        evaluate(experiment)
    assert "\n" not in str(raised.value)
    assert str(raised.value).endswith(f"item_embedding is not finite for item {OTHER}")


def results(experiment: Experiment) -> dict[str, bytes]:
    """Return everything that evaluation and recommend write, except times."""
    paths, found = RunPaths.of(experiment), {}
    for uri in (paths.ranks, paths.recommendations, paths.user_vectors, paths.item_vectors):
        for number, path in enumerate(tables.data_files(uri, tables.open_table(uri))):
            found[f"{uri}/{number}"] = Path(path).read_bytes()
    for uri in (paths.metrics, f"{paths.uri}/cases.json"):
        found[uri] = Path(uri).read_bytes()
    return found


@pytest.mark.slow
@pytest.mark.ray
def test_every_command_gives_the_same_bytes_with_item_shards(tmp_path, shared_ray):
    first = shared_run(tmp_path, *WITH_MEMORY)
    expected = None
    for size in (1, 2):
        experiment = with_shards(first, size)
        evaluate(experiment)
        recommend(experiment, Options(5, False))
        found = results(experiment)
        assert expected is None or found == expected
        expected = found
        for name in ("ranks", "rivals", "recommendations", "vectors"):
            Path(RunPaths.of(first).uri, name).rename(tmp_path / f"{name}-{size}")
    ranks = tables.read_table(str(tmp_path / "ranks-2"), schema.RANKS).to_pandas()
    twins = ranks[ranks["target"].isin([TWIN, OTHER]) & (ranks["channel"] == "fused")]
    assert len(twins) == 12 and (twins["ties"] >= 1).all()


@pytest.mark.slow
@pytest.mark.ray
def test_a_group_that_loses_an_actor_starts_again(tmp_path, shared_ray):
    class DiesOnce(RankWorker):
        def rows(self, shard):
            mark = tmp_path / "died"
            if self.member.rank == 1 and shard.number == 1 and not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return super().rows(shard)

    experiment = with_shards(shared_run(tmp_path, "sasrec", {}), 2)
    weight_of = load_trained(experiment).weight_of
    shards = shards_of(40, EvalConfig(user_batch=1))
    for name, worker in (("killed", DiesOnce), ("whole", RankWorker)):
        folder = tmp_path / name
        folder.mkdir()
        with Pool(worker, 1, experiment, weight_of, None) as pool:
            done = [shard for shard, _ in pool.run(shards, str(folder))]
        assert sorted(done) == shards
    assert (tmp_path / "died").exists()
    assert content(tmp_path / "killed") == content(tmp_path / "whole")
