"""ItemKNN ranks as the dense product of histories and O does."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from reference_tables import normalized_scores
from scipy.sparse import csr_array
from small_dataset import NUM_ITEMS, NUM_USERS, small_experiment, write_dataset

from evaluation import baselines
from evaluation.baselines import ItemKNN, baseline_names, is_read_in_time, itemknn_obstacle
from evaluation.ranking import seen_pairs
from evaluation.stored import cooccurrence
from evaluation.stored.cooccurrence import StoredSimilarity
from mdsrec import schema, tables
from mdsrec.table_names import cooccurrence_name
from training.data.sequences import SequenceReader, Target


class Similarity(csr_array):
    """A matrix that is held whole."""

    def row_lengths(self, items):
        return np.diff(self.indptr)[items]


# Item 0 co-occurs with 1, and 1 with 2 more often. Items 3 and 4 co-occur with none.
SIMILARITY = Similarity(
    np.array([[0, 1, 0, 0, 0], [1, 0, 2, 0, 0], [0, 2, 0, 0, 0]] + [[0] * 5] * 2)
)


def targets_after(*history):
    events = np.array(history, dtype=np.int32)
    return [Target(0, "test", item, events) for item in range(5)]


def test_items_that_co_occur_with_the_history_rank_above_others():
    better, ties = ItemKNN(SIMILARITY).better_and_ties(targets_after(1), None)
    assert better.tolist() == [1, 2, 0, 2, 2]
    assert ties.tolist() == [0, 2, 0, 2, 2]  # 1, 3 and 4 score 0


def test_seen_items_are_not_counted_except_the_target():
    # Scores are 1, 2, 2, 0, 0. Seen are 1 and 2: only as the target are they counted.
    targets = targets_after(1, 2)
    seen = seen_pairs([target.history for target in targets])
    better, ties = ItemKNN(SIMILARITY).better_and_ties(targets, seen)
    assert better.tolist() == [0, 0, 0, 1, 1]
    assert ties.tolist() == [0, 0, 0, 1, 1]


def test_ranks_equal_those_of_the_dense_product(tmp_path):
    experiment = small_experiment(tmp_path)
    write_dataset(experiment)
    table = tables.read_table(f"{experiment.root}/dataset/cooccurrence", schema.COOCCURRENCE)
    O = np.zeros((NUM_ITEMS, NUM_ITEMS))  # noqa: E741
    O[table["item"].to_numpy(), table["other"].to_numpy()] = table["score"].to_numpy()
    sums = np.where(O.sum(1) > 0, O.sum(1), 1)
    similarity = O / np.sqrt(np.outer(sums, sums))
    targets = SequenceReader(experiment).targets(0, NUM_USERS, "test")
    counts = ItemKNN.read(experiment).better_and_ties(targets, None)
    for target, better, ties in zip(targets, *counts, strict=True):
        scores = sum(similarity[item] for item in target.history).round(9)
        own = scores[target.target]
        assert (better, ties) == ((scores > own).sum(), (scores == own).sum() - 1)


def stored_similarity(folder, matrix, rows_per_group):
    """Write a matrix as the table of a co-occurrence, and open it."""
    uri, (item, other) = str(folder / "cooccurrence"), np.nonzero(matrix)
    version = tables.new_version(uri)
    Path(version).mkdir(parents=True)
    rows = pa.table([item, other, matrix[item, other]], names=schema.COOCCURRENCE.names)
    rows = rows.cast(schema.COOCCURRENCE)
    for number, first in enumerate(range(0, rows.num_rows, 3 * rows_per_group)):
        part = rows.slice(first, 3 * rows_per_group)
        pq.write_table(part, f"{version}/part-{number:05d}.parquet", row_group_size=rows_per_group)
    tables.commit(uri, version, tables.Recipe({}, {}), rows.num_rows)
    return StoredSimilarity(uri, len(matrix))


@pytest.fixture
def symmetric():
    """Return a symmetric matrix in which some items co-occur with none."""
    generator = np.random.default_rng(0)
    upper = np.triu(generator.random((40, 40)) * (generator.random((40, 40)) < 0.2), 1)
    upper[:, 30:] = 0
    return upper + upper.T


@pytest.mark.parametrize("held", [0, 50, 10_000])
def test_rows_that_are_read_when_needed_have_the_bits_of_the_whole_matrix(
    tmp_path, symmetric, monkeypatch, held
):
    monkeypatch.setattr(cooccurrence, "HELD_ENTRIES", held)
    stored = stored_similarity(tmp_path, symmetric, rows_per_group=7)
    rows, columns = np.nonzero(symmetric)
    scores = normalized_scores(rows, columns, symmetric[rows, columns], "symmetric")
    whole = csr_array((scores, (rows, columns)), shape=(40, 40)).toarray()
    for items in (np.arange(40), np.array([3, 29, 35]), np.array([], dtype=np.int64)):
        np.testing.assert_array_equal(stored[items].toarray(), whole[items])
        assert stored.row_lengths(items).tolist() == (whole[items] > 0).sum(axis=1).tolist()


@pytest.mark.parametrize("most", [1, 30, 10**9])
@pytest.mark.parametrize("exclude_seen", [False, True])
def test_counts_do_not_depend_on_how_many_targets_are_scored_together(
    tmp_path, symmetric, monkeypatch, most, exclude_seen
):
    generator = np.random.default_rng(1)
    targets = [
        Target(user, "test", int(generator.integers(40)), generator.integers(0, 40, n, np.int32))
        for user, n in enumerate(generator.integers(1, 9, 25))
    ]
    seen = seen_pairs([target.history for target in targets]) if exclude_seen else None
    whole = Similarity(stored_similarity(tmp_path, symmetric, 10**6)[np.arange(40)])
    expected = ItemKNN(whole).better_and_ties(targets, seen)
    monkeypatch.setattr(baselines, "READ_ENTRIES", most)
    monkeypatch.setattr(baselines, "SCORED_ENTRIES", most // 3)
    counts = ItemKNN(stored_similarity(tmp_path, symmetric, 7)).better_and_ties(targets, seen)
    np.testing.assert_array_equal(counts, expected)


def test_a_data_set_with_too_many_pairs_has_popularity_only(tmp_path, monkeypatch):
    experiment = small_experiment(tmp_path)
    write_dataset(experiment)
    assert baseline_names(experiment) == ("popularity", "itemknn")
    monkeypatch.setattr(baselines, "HELD_ENTRIES", 10)
    assert baseline_names(experiment) == ("popularity",)
    expected = "1,208 pairs of items would be read for every 112 users, more slowly than"
    assert itemknn_obstacle(experiment).startswith(expected)
    monkeypatch.setattr(baselines, "SCORES_PER_PAIR", 1)
    assert baseline_names(experiment) == ("popularity", "itemknn")


@pytest.mark.parametrize(
    ("num_items", "most"),
    [
        (1_000, 20_000_000),
        (1_000_000, 20_480_000),
        (5_000_000, 51_200_000),
        (48_000_000, 175_999_999),
    ],
)
def test_pairs_beyond_those_held_are_read_no_longer_than_4096_users_are_ranked(num_items, most):
    assert is_read_in_time(most, num_items, 4096)
    assert not is_read_in_time(most + 1, num_items, 4096)


def test_itemknn_is_that_of_the_data_where_the_rows_of_the_graph_are_bounded(tmp_path):
    plain = small_experiment(tmp_path)
    bounded = small_experiment(tmp_path, graph={"max_cooccurrences": 1})
    write_dataset(plain)
    uri = tables.table_uri(bounded.root, cooccurrence_name(bounded))
    tables.write_table(uri, [], schema.COOCCURRENCE, tables.Recipe({}, {}))
    targets = SequenceReader(plain).targets(0, NUM_USERS, "test")
    found, expected = (
        ItemKNN.read(experiment).better_and_ties(targets, None) for experiment in (bounded, plain)
    )
    np.testing.assert_array_equal(found, expected)
    assert baseline_names(bounded) == ("popularity", "itemknn")


def test_without_targets_there_are_no_counts():
    better, ties = ItemKNN(Similarity(np.eye(3))).better_and_ties([], None)
    assert len(better) == len(ties) == 0
