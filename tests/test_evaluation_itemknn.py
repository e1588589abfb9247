"""ItemKNN ranks as the dense product of histories and O does."""

import numpy as np
from scipy.sparse import csr_array
from small_dataset import NUM_ITEMS, NUM_USERS, small_experiment, write_dataset

from evaluation.baselines import itemknn_better_and_ties, itemknn_events
from mdsrec import schema, tables
from training.data.sequences import SequenceReader, Target


def test_items_that_co_occur_with_the_history_rank_above_others():
    """Item 0 co-occurs with 1, and 1 with 2 more often. Items 3 and 4 co-occur with none."""
    similarity = csr_array(
        np.array([[0, 1, 0, 0, 0], [1, 0, 2, 0, 0], [0, 2, 0, 0, 0]] + [[0] * 5] * 2)
    )
    history = np.array([1], dtype=np.int32)
    targets = [Target(0, "test", item, history) for item in range(5)]
    better, ties = itemknn_better_and_ties(similarity, targets)
    assert better.tolist() == [1, 2, 0, 2, 2]
    assert ties.tolist() == [0, 2, 0, 2, 2]  # 1, 3 and 4 score 0


def test_metrics_equal_those_of_the_dense_product(tmp_path):
    experiment = small_experiment(tmp_path)
    write_dataset(experiment)
    events = itemknn_events(experiment, (10,))
    table = tables.read_table(f"{experiment.root}/dataset/cooccurrence", schema.COOCCURRENCE)
    O = np.zeros((NUM_ITEMS, NUM_ITEMS))  # noqa: E741
    O[table["item"].to_numpy(), table["other"].to_numpy()] = table["score"].to_numpy()
    sums = np.where(O.sum(1) > 0, O.sum(1), 1)
    similarity = O / np.sqrt(np.outer(sums, sums))
    targets = SequenceReader(experiment).targets(0, NUM_USERS, "test")
    assert events.users.tolist() == [target.user for target in targets]
    for target, recall in zip(
        targets, events.values[:, events.names.index("recall@10")], strict=True
    ):
        scores = sum(similarity[item] for item in target.history).round(9)
        own = scores[target.target]
        better, ties = (scores > own).sum(), (scores == own).sum() - 1
        assert abs(recall - np.clip((10 - better) / (ties + 1), 0, 1)) < 1e-9


def test_without_targets_there_are_no_counts():
    better, ties = itemknn_better_and_ties(csr_array(np.eye(3)), [])
    assert len(better) == len(ties) == 0
