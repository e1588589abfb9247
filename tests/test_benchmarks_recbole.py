"""RecBole gets the same split row for row, and its results are compared with ours."""

import os
import sys
from pathlib import Path

import pytest
from small_dataset import small_experiment, write_dataset
from small_sequences import sasrec, write_sequences

from benchmarks.recbole import metrics, speed
from benchmarks.recbole.split import (
    rows_of,
    run_recbole,
    sasrec_overrides,
    settings_of,
    write_split,
)
from mdsrec.config.loading import load_experiment
from mdsrec.errors import InputError
from training.data.sequences import SequenceReader

RECBOLE = os.environ.get("RECBOLE_PYTHON")  # an interpreter with RecBole
CONFIG = str(Path(__file__).parent.parent / "configs" / "scientific-benchmark.toml")


def test_each_event_is_a_row_of_its_part_with_the_last_events_before_it(tmp_path):
    experiment = sasrec(tmp_path / "root", model={"max_length": 2})
    write_sequences(experiment, [([3, 1, 4, 1, 5], 3, 4), ([2], 1, 1)], num_items=7)
    write_split(experiment, tmp_path)
    header = "user_id:token\titem_id_list:token_seq\titem_id:token"
    expected = {
        "split.train.inter": [header, "0\t3\t1", "0\t3 1\t4"],
        "split.valid.inter": [header, "0\t1 4\t1"],
        "split.test.inter": [header, "0\t4 1\t5"],
        "split.item": ["item_id:token", *"0123456"],
    }
    assert {
        path.name: path.read_text().splitlines() for path in (tmp_path / "split").iterdir()
    } == expected


def test_recbole_trains_on_our_prefixes_and_ranks_our_targets(tmp_path):
    experiment = sasrec(tmp_path / "root")
    write_dataset(small_experiment(tmp_path / "root"))
    reader, rows = SequenceReader(experiment), list(rows_of(experiment))
    for part in ("valid", "test"):
        targets = reader.targets(0, reader.num_users, part)
        ours = [(t.user, t.history[-6:].tolist(), t.target) for t in targets]
        assert ours == [(r.user, r.history, r.target) for r in rows if r.part == part]
    ours = sorted(target for step in reader.steps(0) for target in step.targets.tolist())
    assert ours == sorted(row.target for row in rows if row.part == "train")


def test_the_sasrec_for_recbole_has_only_the_sizes_and_the_rate_of_the_experiment():
    given = ["model.dim=64", "model.dropout=0.2", "optim.lr=0.002"]
    experiment = load_experiment(CONFIG, sasrec_overrides(CONFIG, given))
    model, optim = experiment.model, experiment.optim
    assert (model.name, model.dim, model.dropout, model.max_length) == ("sasrec", 64, 0.2, 50)
    assert (model.temperature, model.memory) == (0.0, False)
    assert (optim.lr, optim.decay) == (0.002, "none")


def test_a_model_without_layers_is_refused():
    with pytest.raises(InputError, match=r"model\.name = gru4rec: the model has no layers"):
        sasrec_overrides(CONFIG, ['model={name="gru4rec"}'])


@pytest.mark.parametrize(
    ("python", "message"),
    [
        ("no-such-python", "no-such-python: cannot be run: No such file or directory"),
        (sys.executable, "RecBole failed: ModuleNotFoundError: No module named 'recbole'"),
    ],
)
def test_an_interpreter_without_recbole_is_one_error_line(tmp_path, python, message):
    with pytest.raises(InputError, match=message):
        run_recbole(python, "fit", settings_of(sasrec(tmp_path / "root"), tmp_path), threads=1)


def test_speeds_are_medians_and_relative_to_the_first():
    readings = {
        "theirs": [{"train": 100.0, "rank": 10.0}] * 3,
        "ours": [{"train": t, "rank": 25.0} for t in (900.0, 1200.0, 5000.0)],
    }
    *_, theirs, ours = speed.table(readings).splitlines()
    assert theirs == "| theirs | 100 | 1.0 | 10 | 1.0 |"
    assert ours == "| ours | 1,200 | 12.0 | 25 | 2.5 |"


@pytest.mark.slow
def test_the_speed_here_is_that_of_training_and_validation_on_the_tables(tmp_path):
    experiment = sasrec(tmp_path / "root")
    write_dataset(small_experiment(tmp_path / "root"))
    rates = speed.rates_here(experiment, steps=4, threads=1)
    assert set(rates) == {"train", "rank"}
    assert min(rates.values()) > 0


def test_metrics_have_a_deviation_and_the_interval_of_their_difference():
    ours = [{"recall@10": 0.11, "mrr@10": 0.5}, {"recall@10": 0.13, "mrr@10": 0.5}]
    theirs = [{"recall@10": 0.10}, {"recall@10": 0.12}]
    *_, row = metrics.table(ours, theirs, "RecBole").splitlines()
    # Welch: both variances are .0002, so the standard error is sqrt(2 * .0002 / 2) at 2 degrees
    # of freedom, whose 97.5% point is 4.3027.
    assert row == "| recall@10 | 0.1200 ± 0.0141 | 0.1100 ± 0.0141 | +0.0100 [-0.0508, +0.0708] |"
    *_, row = metrics.table(ours[:1], theirs[:1], "RecBole").splitlines()
    assert row == "| recall@10 | 0.1100 | 0.1000 | +0.0100 |"


@pytest.mark.skipif(RECBOLE is None, reason="RECBOLE_PYTHON is not set")
def test_recbole_reads_the_files_and_learns_the_next_item(tmp_path):
    """Item i + 1 follows item i for every user. Item 14 has no events."""
    experiment = sasrec(
        tmp_path / "root",
        model={"dim": 16, "max_length": 3},
        optim={"lr": 0.01},
        train={"max_epochs": 30, "patience": 30},
        eval={"cutoffs": (1, 10)},
    )
    users = [([(first + n) % 14 for n in range(8)], 6, 7) for first in range(14)]
    write_sequences(experiment, users, num_items=15)
    write_split(experiment, tmp_path)
    settings = settings_of(experiment, tmp_path)
    found = run_recbole(str(RECBOLE), "fit", settings, threads=1)
    assert found["epochs"] == 30
    assert found["test"]["recall@1"] > 0.9
    assert found["test"]["ndcg@10"] <= 1
    rates = run_recbole(str(RECBOLE), "speed", settings, threads=1, batches=2)
    assert min(rates["train"], rates["rank"]) > 0
