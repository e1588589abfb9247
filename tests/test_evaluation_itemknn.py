"""ItemKNN ranks as the dense product of histories and O does."""

import numpy as np
from scipy.sparse import csr_array
from small_dataset import NUM_ITEMS, NUM_USERS, small_experiment, write_dataset

from evaluation import baselines
from evaluation.baselines import ItemKNN, baseline_names
from evaluation.ranking import seen_pairs
from mdsrec import schema, tables
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


def test_a_data_set_with_too_many_pairs_has_popularity_only(tmp_path, monkeypatch):
    experiment = small_experiment(tmp_path)
    write_dataset(experiment)
    assert baseline_names(experiment) == ("popularity", "itemknn")
    monkeypatch.setattr(baselines, "MAX_PAIRS", 10)
    assert baseline_names(experiment) == ("popularity",)


def test_without_targets_there_are_no_counts():
    better, ties = ItemKNN(Similarity(np.eye(3))).better_and_ties([], None)
    assert len(better) == len(ties) == 0
