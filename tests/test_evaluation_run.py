"""Evaluation of a run with random weights, on Ray."""

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from random_runs import TWO_USERS, run_of, write_weights
from small_dataset import NUM_ITEMS, NUM_USERS, small_experiment, write_dataset

from evaluation.case_study import nearest_neighbors
from evaluation.cases import Cases
from evaluation.compare import compare_runs
from evaluation.pool import Pool, shards_of
from evaluation.recommend import Options, recommend
from evaluation.run import evaluate, rank_all, ranks_recipe
from evaluation.workers import RankWorker
from mdsrec import metrics, schema, table_names, tables
from mdsrec.config import EvalConfig, Experiment
from mdsrec.config.models import sections
from mdsrec.errors import InputError
from mdsrec.tables.versions import folders_of, versions
from training.inference import load_trained

pytestmark = pytest.mark.ray


def parts_of(experiment: Experiment) -> list[bytes]:
    """Return the content of the files of the ranks table, in order."""
    uri = f"{run_of(experiment)}/ranks"
    manifest = tables.open_table(uri, "")
    return [Path(path).read_bytes() for path in tables.data_files(uri, manifest)]


def rank_again(experiment: Experiment) -> None:
    trained = load_trained(experiment)
    rank_all(experiment, trained, ranks_recipe(experiment, trained))


def small_run(root: Path) -> Experiment:
    experiment = small_experiment(root, eval=TWO_USERS)
    write_dataset(experiment)
    write_weights(experiment, seed=1)
    return experiment


@pytest.fixture
def experiment(tmp_path: Path, shared_ray: None) -> Experiment:
    return small_run(tmp_path)


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory, shared_ray: None) -> Experiment:
    """An evaluated run that tests only read."""
    experiment = small_run(tmp_path_factory.mktemp("evaluated"))
    assert f"{run_of(experiment)}/report.html" in evaluate(experiment)
    return experiment


def test_ranks_and_cases_have_the_same_bytes_for_any_number_of_workers(evaluated, tmp_path):
    two = small_experiment(tmp_path, eval={**TWO_USERS, "num_workers": 2})
    small_run(tmp_path)
    evaluate(two)
    assert evaluated.eval.num_workers == 1
    assert len(parts_of(two)) == 30  # of two users each
    assert parts_of(two) == parts_of(evaluated)
    cases = [Path(run_of(run), "cases.json").read_bytes() for run in (two, evaluated)]
    assert cases[0] == cases[1]


def test_the_ranks_are_a_version_that_others_replace(evaluated):
    uri = f"{run_of(evaluated)}/ranks"
    assert len(versions(uri)) == len(folders_of(uri)) == 1


def test_every_target_is_ranked_once_in_every_channel(evaluated):
    ranks = tables.read_table(f"{run_of(evaluated)}/ranks", schema.RANKS).to_pandas()
    sequences = tables.read_table(
        tables.table_uri(evaluated.root, "sequences"), schema.SEQUENCES
    ).to_pylist()
    expected = [
        (row["user"], split, row["items"][position], channel)
        for row in sequences
        for split, position in (("valid", row["train_end"]), ("test", row["valid_end"]))
        if position < len(row["items"])
        for channel in ("all", "fused", "text", "image", "popularity", "itemknn")
    ]
    assert list(zip(ranks.user, ranks.split, ranks.target, ranks.channel, strict=True)) == expected
    assert ((ranks.better >= 0) & (ranks.ties >= 0)).all()
    assert (ranks.better + ranks.ties < NUM_ITEMS).all()
    assert (ranks["rank"] == ranks.better + 1 + ranks.ties / 2).all()


def test_ranks_equal_those_of_sorting_the_whole_score(evaluated):
    """The rank equals that of Eq. 22 in float64, computed item by item, up to rounding."""
    trained = load_trained(evaluated)
    items = trained.item_vectors().double()
    ranks = tables.read_table(f"{run_of(evaluated)}/ranks", schema.RANKS).to_pylist()
    row = next(r for r in ranks if (r["split"], r["channel"]) == ("test", "all"))
    sequences = tables.read_table(tables.table_uri(evaluated.root, "sequences"), schema.SEQUENCES)
    history = np.array(sequences["items"][row["user"]].as_py()[:-1], dtype=np.int32)
    user = trained.user_vectors([history])[0].double()
    scores = sum(w * (i @ u) for w, i, u in zip(trained.sums["all"], items, user, strict=True))
    own = scores[row["target"]]
    assert abs((scores > own).sum().item() - row["better"]) <= (abs(scores - own) < 1e-6).sum()


def test_metrics_json_agrees_with_the_ranks_table(evaluated):
    found = json.loads(Path(run_of(evaluated), "metrics.json").read_text())
    ranks = tables.read_table(f"{run_of(evaluated)}/ranks", schema.RANKS).to_pandas()
    for (split, channel), rows in ranks.groupby(["split", "channel"]):
        better, ties = rows.better.to_numpy(), rows.ties.to_numpy()
        assert found["split"][split][channel] == pytest.approx(
            metrics.summary(better, ties, (10, 20))
        )
        assert found["ties"][split][channel] == (ties > 0).sum()
        at_ten = found["curve"][split][channel][found["curve"]["n"].index(10)]
        assert at_ten == pytest.approx(found["split"][split][channel]["recall@10"])
    assert found["targets"]["test"] == (ranks[ranks.channel == "all"].split == "test").sum()
    assert found["users"] == ranks.user.nunique()


def test_slices_by_modality_split_the_targets(evaluated):
    found = json.loads(Path(run_of(evaluated), "metrics.json").read_text())
    ranks = tables.read_table(f"{run_of(evaluated)}/ranks", schema.RANKS).to_pandas()
    slices = found["slices"]["test"]["image"]
    for channel, rows in ranks[ranks.split == "test"].groupby("channel"):
        without = rows[rows.target < 5]  # items without an image in the small data set
        assert slices["without"]["targets"] == len(without)
        assert slices["with"]["targets"] == len(rows) - len(without)
        assert slices["without"]["channels"][channel]["recall@10"] == pytest.approx(
            metrics.recall(without.better.to_numpy(), without.ties.to_numpy(), 10).mean()
        )
    assert found["items_with"] == {"text": NUM_ITEMS, "image": NUM_ITEMS - 5}


@pytest.mark.slow
def test_ranks_are_computed_again_only_when_the_weights_change(experiment):
    evaluate(experiment)
    first = tables.open_table(f"{run_of(experiment)}/ranks", "")
    evaluate(experiment)
    assert tables.open_table(f"{run_of(experiment)}/ranks", "") == first
    write_weights(experiment, seed=2)
    evaluate(experiment)
    assert tables.open_table(f"{run_of(experiment)}/ranks", "").fingerprint != first.fingerprint


@pytest.mark.slow
def test_the_manifest_of_ranks_names_the_sizes_of_the_device(tmp_path, shared_ray, monkeypatch):
    experiment = small_experiment(tmp_path, eval={"user_batch": None, "item_block": None})
    write_dataset(experiment)
    write_weights(experiment, seed=1)
    monkeypatch.setattr("evaluation.run.uses_gpu", lambda _: True)
    evaluate(experiment)
    settings = tables.open_table(f"{run_of(experiment)}/ranks", "").settings
    assert (settings["user_batch"], settings["item_block"]) == (2048, 65_536)


@pytest.mark.slow
def test_the_shard_of_a_killed_worker_is_ranked_by_another_worker(
    evaluated, experiment, tmp_path, monkeypatch
):
    experiment = small_experiment(tmp_path, eval={**TWO_USERS, "num_workers": 2})

    class DiesOnce(RankWorker):
        """A worker whose process is killed at its first shard, as when a node is switched off."""

        def write_part(self, shard, version):
            mark = Path(version, "died")
            if not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return super().write_part(shard, version)

    monkeypatch.setattr("evaluation.run.RankWorker", DiesOnce)
    rank_again(experiment)
    assert list(Path(run_of(experiment), "ranks").rglob("died"))
    assert parts_of(experiment) == parts_of(evaluated)


@pytest.mark.slow
def test_a_restarted_ranking_writes_only_missing_and_truncated_parts(experiment, monkeypatch):
    ranks = Path(run_of(experiment), "ranks")
    rank_again(experiment)
    undisturbed = parts_of(experiment)
    assert len(undisturbed) == 30
    (ranks / "_manifest.json").unlink()
    kept, truncated, *_ = sorted(ranks.rglob("part-*.parquet"))
    truncated.write_bytes(truncated.read_bytes()[:-9])
    written = kept.stat().st_mtime_ns, truncated.stat().st_mtime_ns
    rank_again(experiment)
    assert parts_of(experiment) == undisturbed
    assert kept.stat().st_mtime_ns == written[0]
    assert truncated.stat().st_mtime_ns > written[1]


def test_a_worker_that_fails_to_load_the_run_ends_the_ranking(experiment, monkeypatch):
    class FailsToLoad(RankWorker):
        @property
        def trained(self):
            raise ValueError("cannot load")

    monkeypatch.setattr("evaluation.run.RankWorker", FailsToLoad)
    with pytest.raises(ValueError, match="cannot load"):
        rank_again(experiment)


def test_ranks_are_not_committed_if_a_node_wrote_to_another_place(experiment, monkeypatch):
    class WritesElsewhere(RankWorker):
        def write_part(self, shard, version):
            return super().write_part(shard, version if shard.number else f"{version}-elsewhere")

    monkeypatch.setattr("evaluation.run.RankWorker", WritesElsewhere)
    with pytest.raises(InputError, match="put the root on storage that all nodes share"):
        rank_again(experiment)
    assert tables.read_manifest(f"{run_of(experiment)}/ranks") is None


@pytest.mark.slow
def test_a_pool_with_more_workers_than_the_cluster_holds_completes(experiment, tmp_path):
    tmp_path.joinpath("version").mkdir()
    shards = shards_of(NUM_USERS, EvalConfig(user_batch=1))
    weight_of = load_trained(experiment).weight_of
    with Pool(RankWorker, 5, experiment, weight_of, None) as pool:
        done = [shard for shard, _ in pool.run(shards, str(tmp_path / "version"))]
    assert sorted(done) == shards
    assert len(list(tmp_path.joinpath("version").glob("part-*.parquet"))) == len(shards)


def test_a_run_without_weights_is_an_error(experiment):
    with pytest.raises(InputError, match="no trained weights"):
        evaluate(experiment.model_copy(update={"name": "other"}))


def test_a_folder_of_pictures_that_is_missing_is_an_error_before_any_ranking(experiment):
    eval_config = experiment.eval.model_copy(update={"pictures": "/no/such/folder"})
    with pytest.raises(InputError, match=r"eval\.pictures = /no/such/folder: no such folder"):
        evaluate(experiment.model_copy(update={"eval": eval_config}))
    assert not Path(run_of(experiment), "ranks").exists()


@pytest.mark.slow
def test_runs_on_the_same_data_are_compared(evaluated):
    other = evaluated.model_copy(update={"name": "other"})
    write_weights(other, seed=2)
    evaluate(other)
    screen = compare_runs([run_of(evaluated), run_of(other)])
    terms, table, differences, _, reports = screen.split("\n\n")
    header, *lines = table.splitlines()
    assert terms.endswith("40 items, each ranked among all items")
    assert [line.split()[0] for line in differences.splitlines()] == ["difference", "other"]
    assert reports.split() == [
        "report",
        f"{run_of(evaluated)}/report.html",
        "report",
        f"{run_of(other)}/report.html",
        "page",
        f"{run_of(evaluated)}/comparison.html",
    ]
    assert header.split() == ["run", "recall@10", "recall@20", "ndcg@10", "ndcg@20"]
    assert [line.split()[0] for line in lines] == ["small", "other", "popularity", "ItemKNN"]
    found = json.loads(Path(run_of(other), "metrics.json").read_text())["split"]["test"]
    assert lines[1].split()[1] == f"{found['all']['recall@10']:.4f}"
    for line, baseline in zip(lines[2:], ("popularity", "itemknn"), strict=True):
        assert line.split()[1] == f"{found[baseline]['recall@10']:.4f}"


def test_cases_agree_with_the_ranks_table(evaluated):
    cases = Cases.read(f"{run_of(evaluated)}/cases.json")
    ranks = tables.read_table(f"{run_of(evaluated)}/ranks", schema.RANKS).to_pandas()
    ranks = ranks[ranks.split == "test"].set_index(["user", "channel"])
    assert [case.user for case in cases.cases] == list(ranks.index.unique("user"))
    sequences = tables.read_table(tables.table_uri(evaluated.root, "sequences"), schema.SEQUENCES)
    for case in cases.cases:
        *before, target = sequences["items"][case.user].as_py()
        assert (case.target, case.num_events) == (target, len(before))
        assert case.history == before[-6:]
        assert list(case.top) == ["all", "fused", "text", "image"]
        for channel, rank in case.rank.items():
            assert rank == ranks.loc[(case.user, channel), "rank"]
            if channel in case.top and ranks.loc[(case.user, channel), "ties"] == 0:
                top = case.top[channel]
                assert top.index(target) + 1 == rank if target in top else rank > 5


def test_cases_show_the_nearest_neighbors_and_no_more_than_the_model_reads(evaluated, tmp_path):
    few = evaluated.model_copy(
        update={"model": evaluated.model.model_copy(update={"num_neighbors": 2})}
    )
    uri = tables.table_uri(evaluated.root, table_names.neighbors_name(evaluated, "image"))
    rows = tables.read_table(uri, schema.NEIGHBORS).to_pylist()
    neighbors = {row["item"]: row["neighbors"] for row in rows}
    assert 0 not in neighbors  # item 0 has no image in the small data set
    for experiment, count in ((evaluated, 4), (few, 2)):
        found = nearest_neighbors(experiment, "image", [0, 9, 30])
        assert found == {9: neighbors[9][:count], 30: neighbors[30][:count]}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sasrec", "unisrec"])
def test_another_model_is_ranked_and_recommends(experiment, name):
    model = sections()[name](dim=8, max_length=6)
    other = experiment.model_copy(update={"name": name, "model": model})
    write_weights(other, seed=1)
    assert "report.html" in evaluate(other)
    assert "of some user" in recommend(other, Options(3, False))
    found = json.loads(Path(run_of(other), "metrics.json").read_text())
    assert list(found["split"]["test"]) == ["all", "fused", "popularity", "itemknn"]
    items = tables.read_table(f"{run_of(other)}/vectors/items", schema.ITEM_VECTORS)
    assert len(items["vector"][0]) == 8


def test_the_report_shows_the_metrics(evaluated):
    found = json.loads(Path(run_of(evaluated), "metrics.json").read_text())
    html = Path(run_of(evaluated), "report.html").read_text()
    for means in found["split"]["test"].values():
        assert f'<td class="number" data-label="ndcg@10">{means["ndcg@10"]:.4f}</td>' in html


def test_weights_are_chosen_on_the_ray_that_ranks(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise an evaluation starts Ray twice."""
    inside: list[str] = []

    @contextmanager
    def session() -> Iterator[None]:
        inside.append("session")
        yield
        inside.clear()

    def choose(_: Experiment) -> None:
        raise InputError(f"inside {inside}")

    monkeypatch.setattr("evaluation.run.ray_session", session)
    monkeypatch.setattr("evaluation.run.describe_weighted", choose)
    with pytest.raises(InputError, match=r"inside \['session'\]"):
        evaluate(experiment)
