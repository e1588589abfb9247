"""Weights of the channels, chosen on validation; runs with a memory, and without a network."""

import json
from html import escape
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from random_runs import TWO_USERS, run_of, write_weights
from small_dataset import NUM_ITEMS, NUM_USERS, small_experiment, write_dataset

from benchmarks import channels
from evaluation.channel_weights import load_weighted
from evaluation.metrics.run_metrics import BASELINES
from evaluation.recommend import Options, recommend
from evaluation.report.head import date_text
from evaluation.run import evaluate
from evaluation.vector_tables import VectorTables
from evaluation.weight_search import Rivals, mean_ndcg, search_weights
from mdsrec import __version__, schema, tables
from mdsrec.config.loading import experiment_from
from mdsrec.run_paths import RunPaths
from training.data.sequences import SequenceReader
from training.run import fit


def rivals_of(*targets):
    """Return rivals from the list of [difference by channel] of each target."""
    counts = np.array([len(rivals) for rivals in targets])
    return Rivals(np.array([r for rivals in targets for r in rivals], np.float32), counts)


def test_the_ndcg_of_rivals_is_that_of_the_targets_ranks():
    # ranks by the first channel: 1; 2; 1 or 2 with equal probability
    rivals = rivals_of([[-1, 1]], [[1, 1], [-2, 5]], [[0, 1]])
    second = 1 / np.log2(3)
    assert mean_ndcg(rivals, [1, 0]) == pytest.approx((1 + second + (1 + second) / 2) / 3)


def test_a_channel_that_ranks_better_gets_all_the_weight_it_needs():
    # both rivals lead in the first channel; the second one knows the target
    rivals = rivals_of([[1, -4], [2, -4]], [[1, -2]])
    found = search_weights(rivals, [1.0, 0.0])
    assert found.ndcg == 1.0 == mean_ndcg(rivals, found.weights)
    assert found.weights[0] == 1.0
    assert found.weights[1] > 0.5


def test_a_channel_that_only_harms_gets_the_weight_0():
    rivals = rivals_of([[-1, 10], [-1, 7]], [[-2, 9]])
    assert search_weights(rivals, [1.0, 1.0]).weights == [1.0, 0.0]


def test_only_a_signed_channel_gets_a_negative_weight():
    rivals = rivals_of([[1, 2]])  # the rival was seen before, the target was not
    assert search_weights(rivals, [1.0, 0.0]).ndcg < 1
    found = search_weights(rivals, [1.0, 0.0], signed=[1])
    assert found.ndcg == 1.0
    assert found.weights[1] < -0.5


def test_targets_without_rivals_are_all_first():
    rivals = Rivals(np.empty((0, 2), np.float32), np.zeros(3, np.int64))
    assert search_weights(rivals, [1.0, 2.0]) == ([1.0, 2.0], 1.0)


num_channels = st.integers(1, 3)


@given(st.data(), num_channels)
def test_the_search_is_never_worse_than_its_start(data, num_channels):
    numbers = st.lists(st.integers(-4, 4), min_size=num_channels, max_size=num_channels)
    targets = data.draw(
        st.lists(st.lists(numbers, min_size=1, max_size=15), min_size=1, max_size=6)
    )
    start = data.draw(st.lists(st.floats(0.1, 4), min_size=num_channels, max_size=num_channels))
    found = search_weights(rivals_of(*targets), start)
    assert found.ndcg >= mean_ndcg(rivals_of(*targets), start)
    assert found.ndcg == pytest.approx(mean_ndcg(rivals_of(*targets), found.weights))
    assert all(weight >= 0 for weight in found.weights)


MEMORY = {"memory": True}


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory, shared_ray):
    """An evaluated run with a memory that tests only read."""
    experiment = small_experiment(tmp_path_factory.mktemp("memory"), eval=TWO_USERS, model=MEMORY)
    write_dataset(experiment)
    write_weights(experiment, seed=1)
    evaluate(experiment)
    recommend(experiment, Options(7, False))
    return experiment


def ranks_of(experiment):
    ranks = tables.read_table(RunPaths.of(experiment).ranks, schema.RANKS).to_pandas()
    return ranks.set_index(["user", "split", "channel"])["rank"]


def metrics_of(experiment):
    return json.loads(Path(RunPaths.of(experiment).metrics).read_text())


@pytest.mark.ray
@pytest.mark.slow
def test_the_weights_stand_in_the_run_and_in_its_report(evaluated):
    stored = json.loads(Path(RunPaths.of(evaluated).weights).read_text())
    assert list(stored["weights"]) == ["fused", "text", "image", "memory", "seen"]
    assert metrics_of(evaluated)["channel_weights"] == stored["weights"]
    assert stored["ndcg"]["all"] >= max(stored["ndcg"]["network"], 0)
    page = Path(RunPaths.of(evaluated).report).read_text()
    assert f"Weight {stored['weights']['memory']:.3g}." in page
    assert {"network only", "memory only"} <= set(page.replace("<", ">").split(">"))


@pytest.mark.ray
@pytest.mark.slow
def test_ndcg_of_the_chosen_weights_is_that_of_the_exact_ranks(evaluated):
    """There are fewer items than rivals of a channel, so the search saw every item."""
    stored = json.loads(Path(RunPaths.of(evaluated).weights).read_text())
    valid = metrics_of(evaluated)["split"]["valid"]
    assert stored["targets"] == metrics_of(evaluated)["targets"]["valid"]
    for name in ("all", "network", "memory"):
        assert stored["ndcg"][name] == pytest.approx(valid[name]["ndcg@10"], abs=1e-6)


@pytest.mark.ray
@pytest.mark.slow
def test_the_network_is_ranked_as_in_a_run_without_memory(evaluated, tmp_path):
    plain = small_experiment(tmp_path, eval=TWO_USERS)
    write_dataset(plain)
    write_weights(plain, seed=1)
    evaluate(plain)
    with_memory, without = ranks_of(evaluated), ranks_of(plain)
    for channel, same in (("network", "all"), ("fused", "fused"), ("image", "image")):
        of_network = with_memory.xs(channel, level="channel")
        assert of_network.equals(without.xs(same, level="channel"))


@pytest.mark.ray
@pytest.mark.slow
def test_the_whole_score_is_the_weighted_sum_of_all_channels(evaluated):
    trained, reader = load_weighted(evaluated), SequenceReader(evaluated)
    ranks = ranks_of(evaluated)
    targets = reader.targets(0, NUM_USERS, "test")
    queries = trained.queries([target.history for target in targets])
    all_items = torch.arange(NUM_ITEMS).expand(len(targets), -1)
    scores = (queries.scores_of(all_items).double() * trained.sums["all"]).sum(2)
    for target, row in zip(targets, scores, strict=True):
        near = int((abs(row - row[target.target]) < 1e-5).sum()) - 1
        rank = 1 + int((row > row[target.target]).sum())
        assert abs(ranks[target.user, "test", "all"] - rank) <= near


@pytest.mark.slow
@pytest.mark.ray
def test_weights_and_ranks_have_the_same_bits_for_any_number_of_workers(evaluated, tmp_path):
    two = small_experiment(tmp_path, eval={**TWO_USERS, "num_workers": 2}, model=MEMORY)
    write_dataset(two)
    write_weights(two, seed=1)
    evaluate(two)
    first, second = (Path(RunPaths.of(run).weights).read_bytes() for run in (evaluated, two))
    assert first == second
    assert ranks_of(evaluated).equals(ranks_of(two))


@pytest.mark.ray
@pytest.mark.slow
def test_the_exported_tables_give_the_recommendations(evaluated):
    exported = VectorTables.read(run_of(evaluated))
    rows = tables.read_table(RunPaths.of(evaluated).recommendations, schema.RECOMMENDATIONS)
    scores = exported.scores(slice(None))
    listed = np.stack(rows["items"].to_numpy())
    found = np.take_along_axis(scores, listed, axis=1)
    np.testing.assert_allclose(found, np.stack(rows["scores"].to_numpy()), atol=1e-4)
    assert (exported.top(slice(None), 7) == listed).mean() > 0.95  # the rest are near ties
    assert "memory" in {name for row in rows["channels"].to_pylist() for name in row}


@pytest.mark.ray
@pytest.mark.slow
def test_the_benchmark_prints_every_channel_and_what_its_parts_are_worth(evaluated, capsys):
    channels.main([run_of(evaluated)])
    test, validation = (part.splitlines() for part in capsys.readouterr().out.split("\n\n"))
    means = metrics_of(evaluated)["split"]["test"]
    assert [line.split()[1] for line in test[2:]] == [c for c in means if c not in BASELINES]
    assert test[2].split()[3] == f"{means['all']['recall@10']:.4f}"
    memory = next(line for line in validation if line.startswith("| memory"))
    stored = json.loads(Path(RunPaths.of(evaluated).weights).read_text())["ndcg"]
    assert memory.split("|")[2].strip() == f"{stored['memory']:.4f}"


@pytest.mark.ray
@pytest.mark.slow
def test_another_memory_chooses_weights_again(evaluated, tmp_path):
    changed = {**evaluated.transitions.model_dump(), "recency": 0.9}
    other = small_experiment(evaluated.root, eval=TWO_USERS, model=MEMORY, transitions=changed)
    before = load_weighted(evaluated)
    after = load_weighted(other)
    assert before.memory.fingerprint != after.memory.fingerprint
    assert load_weighted(evaluated).weight_of == before.weight_of


@pytest.fixture(scope="module")
def untrained(tmp_path_factory, shared_ray):
    root = tmp_path_factory.mktemp("transitions")
    content = small_experiment(root, eval=TWO_USERS).resolved()
    experiment = experiment_from(
        {**content, "name": "counts", "model": {"name": "transitions"}}, source="test"
    )
    write_dataset(small_experiment(root, model=MEMORY))
    assert fit(experiment).history["num_parameters"] == 0
    evaluate(experiment)
    return experiment


@pytest.mark.ray
@pytest.mark.slow
def test_transitions_need_no_training(untrained):
    found = metrics_of(untrained)["split"]
    assert list(found["test"]) == ["all", "memory", "popularity", "itemknn"]
    assert found["test"]["all"] == found["test"]["memory"]
    history = json.loads(Path(RunPaths.of(untrained).history).read_text())
    assert history["epochs"][0]["ndcg@10"] == pytest.approx(found["valid"]["all"]["ndcg@10"])
    html = Path(RunPaths.of(untrained).report).read_text()
    for fact in (f"mdsrec {__version__}", history["machine"], date_text(history["date"])):
        assert f"<dd>{escape(fact)}</dd>" in html
    recommend(untrained, Options(5, True))
    rows = tables.read_table(RunPaths.of(untrained).recommendations, schema.RECOMMENDATIONS)
    assert set(rows["channels"].to_pylist()[0]) == {"memory"}
    exported = VectorTables.read(run_of(untrained))
    assert exported.scores(slice(0, 3)).shape == (3, NUM_ITEMS)
