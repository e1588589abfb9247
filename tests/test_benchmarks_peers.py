"""RecTools and RePlay get the same split and sizes, and are measured in turns with SASRec here."""

import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_dataset import small_experiment, toml_of, write_dataset
from small_sequences import sasrec, write_sequences

from benchmarks.measure import DONE, GIB, Reading, measure_command
from benchmarks.peers import command, pace, turns
from benchmarks.peers.plan import PEERS, Limits, Ours, Theirs, overrides_of_both, request_of
from benchmarks.peers.request import Request
from benchmarks.peers.sequences import Sequences, metrics_of
from benchmarks.peers.split import write_split
from mdsrec.config.loading import load_experiment
from mdsrec.errors import InputError
from training.data.sequences import SequenceReader

PYTHON_OF = {name: os.environ.get(f"{name.upper()}_PYTHON") for name in PEERS}
CONFIG = str(Path(__file__).parent.parent / "configs" / "scientific-benchmark.toml")
LIMITS = Limits(gib=8.0, seconds=300.0)


def request(experiment, split, **changes):
    options = {"threads": 1, "seconds": 0.2, "rank_users": 10, "negatives": 0}
    return replace(request_of(experiment, split, **options), **changes)


def reading(rate, cpu_rate=7.0, peak=GIB):
    return Reading(DONE, 1.0, peak, peak, {"rate": rate, "cpu_rate": cpu_rate})


def test_the_file_holds_our_training_events_and_our_targets_row_for_row(tmp_path):
    experiment = sasrec(tmp_path / "root")
    write_dataset(small_experiment(tmp_path / "root"))
    write_split(experiment, tmp_path / "split.npz")
    sequences, reader = Sequences(tmp_path / "split.npz"), SequenceReader(experiment)
    for part in ("valid", "test"):
        theirs = [(e.user, e.history.tolist(), e.target) for e in sequences.held_out(part)]
        targets = reader.targets(0, reader.num_users, part)
        assert theirs == [(t.user, t.history.tolist(), t.target) for t in targets]
    ours = sorted(target for step in reader.steps(0) for target in step.targets.tolist())
    assert ours == sorted(item for _, items in sequences.training() for item in items[1:])


def test_users_with_one_training_event_have_no_prefix_and_all_items_count(tmp_path):
    experiment = sasrec(tmp_path / "root")
    write_sequences(experiment, [([3, 1, 4, 1, 5], 3, 4), ([2], 1, 1), ([6, 0, 2], 1, 2)], 9)
    write_split(experiment, tmp_path / "split.npz")
    sequences = Sequences(tmp_path / "split.npz")
    assert [(user, items.tolist()) for user, items in sequences.training()] == [(0, [3, 1, 4])]
    assert [(e.user, e.target) for e in sequences.held_out("test")] == [(0, 5), (2, 2)]
    assert sequences.num_items == 9


def test_several_targets_of_a_user_are_refused(tmp_path):
    times = {"split": "global_time", "cut": [0.8, 0.9]}
    experiment = sasrec(tmp_path / "root", sequences=times)
    with pytest.raises(InputError, match=r"sequences\.split = global_time: the peers rank one"):
        write_split(experiment, tmp_path / "split.npz")


def test_recall_and_ndcg_of_lists_are_those_of_the_place_of_the_target():
    lists = np.arange(60).reshape(3, 20)
    found = metrics_of(lists, [0, 32, 7])  # the first place, the thirteenth, and none
    assert found["recall@10"] == pytest.approx(1 / 3)
    assert found["recall@20"] == pytest.approx(2 / 3)
    assert found["ndcg@10"] == pytest.approx(1 / 3)
    assert found["ndcg@20"] == pytest.approx((1 + 1 / np.log2(14)) / 3)


def test_both_have_the_sizes_of_the_experiment_and_the_inner_width_of_the_peers(tmp_path):
    overrides = overrides_of_both(CONFIG, ["model.dim=64", "optim.lr=0.002"], negatives=0)
    experiment = load_experiment(CONFIG, overrides)
    assert (experiment.model.name, experiment.model.dim) == ("sasrec", 64)
    assert (experiment.model.inner_dim, experiment.train.loss) == (64, "full")
    asked = request(experiment, tmp_path)
    assert (asked.dim, asked.max_length, asked.lr, asked.num_heads) == (64, 50, 0.002, 2)
    asked.write(tmp_path / "request.json")
    assert Request.read(tmp_path / "request.json") == asked


def test_a_sampled_softmax_has_as_many_negatives_here(tmp_path):
    train = load_experiment(CONFIG, overrides_of_both(CONFIG, [], negatives=256)).train
    assert (train.loss, train.negatives, train.num_negatives) == ("sampled", "uniform", 256)


def test_the_pace_leaves_out_the_first_batches_and_ends_after_its_seconds(monkeypatch):
    clock = {"now": 0.0}
    monkeypatch.setattr(pace.time, "perf_counter", lambda: clock["now"])
    monkeypatch.setattr(pace.time, "process_time", lambda: clock["now"] / 2)
    measured = pace.Pace(seconds=5.0)
    over = []
    for clock["now"] in (10.0, 20.0, 24.0, 26.0):
        over.append(measured.add(30))
    assert over == [False, False, False, True]
    assert measured.rates == {"rate": 60 / 6.0, "cpu_rate": 60 / 3.0}


class Scripted:
    """A contestant with prepared readings that records its calls."""

    def __init__(self, name, calls, train, methods=("train", "rank")):
        self.name, self.calls, self.readings, self.methods = name, calls, iter(train), methods

    def measure(self, method, folder):
        self.calls.append((self.name, method))
        return next(self.readings) if method == "train" else reading(7.0)


def test_readings_are_taken_in_turns_and_a_failure_is_not_repeated(tmp_path):
    calls = []
    failure = Reading("stopped: more than 9 s", 9.0, GIB, GIB)
    contestants = {
        "ours": Scripted("ours", calls, [reading(100.0), reading(300.0)]),
        "theirs": Scripted("theirs", calls, [failure]),
        "mdsrec": Scripted("mdsrec", calls, [reading(50.0), reading(50.0)], ("train",)),
    }
    found = turns.in_turns(contestants, tmp_path, readings=2)
    first = [("ours", "train"), ("theirs", "train"), ("mdsrec", "train")]
    ranks = [("ours", "rank"), ("theirs", "rank")]
    assert calls == [*first, *ranks, first[0], first[2], *ranks]
    *_, ours, theirs, mdsrec = turns.speed_table(found, "theirs").splitlines()
    assert ours == "| ours | 200 (100-300) |  |  | 1.00 GiB | 7 (7-7) | 1.0 | 1.0 | 1.00 GiB |"
    stopped = "did not finish (stopped: more than 9 s)"
    assert theirs == f"| theirs | {stopped} |  |  | 1.00 GiB | 7 (7-7) | 1.0 | 1.0 | 1.00 GiB |"
    assert mdsrec == "| mdsrec | 50 (50-50) |  |  | 1.00 GiB |  |  |  |  |"


def test_ratios_are_those_of_the_medians_and_the_peak_is_the_highest():
    ours = [reading(30.0, 8.0), reading(10.0, 9.0, peak=2 * GIB), reading(20.0, 10.0)]
    theirs = [reading(4.0, 3.0), reading(3.0, 1.0), reading(5.0, 6.0)]
    found = {"ours": {"train": ours, "rank": []}, "theirs": {"train": theirs, "rank": []}}
    *_, row, _ = turns.speed_table(found, "theirs").splitlines()
    assert row == "| ours | 20 (10-30) | 5.0 | 3.0 | 2.00 GiB |  |  |  |  |"


def test_the_fastest_form_and_batch_of_the_peer_are_used(tmp_path, monkeypatch, capsys):
    rates = {("CE", 128): 5.0, ("CE", 512): 9.0, ("LogInCE+buckets", 128): 7.0}

    def measured(self, method, folder):
        rate = rates.get((self.request.form, self.request.batch_users))
        return (
            Reading("stopped: memory", 1.0, GIB, GIB) if rate is None else reading(1 / rate, rate)
        )

    monkeypatch.setattr(Theirs, "measure", measured)
    asked = request(sasrec(tmp_path), tmp_path)
    theirs = Theirs(PEERS["replay"], "python", asked, LIMITS)
    best = command.fastest(theirs, tmp_path, [128, 512])
    assert (best.request.form, best.request.batch_users) == ("CE", 512)
    printed = capsys.readouterr().out
    assert "RePlay, LogInCE+buckets, 512 sequences a step: stopped: memory" in printed


def test_a_command_past_its_time_is_stopped_and_says_so():
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    found = measure_command(command, limit_gib=8.0, limit_seconds=0.3)
    assert found.outcome == "stopped: more than 0.3 s"
    assert found.seconds < 30


def test_a_command_that_was_killed_names_the_signal_and_not_its_last_line():
    code = "import os, sys; print('a tip', file=sys.stderr, flush=True); os.kill(os.getpid(), 9)"
    found = measure_command([sys.executable, "-c", code], limit_gib=8.0, limit_seconds=60.0)
    assert found.outcome == "failed: ended by SIGKILL"


def test_an_interpreter_that_is_not_there_is_one_error_line():
    with pytest.raises(InputError, match="--python no-such-python: no such program: `make peers`"):
        command.interpreter("no-such-python")


@pytest.mark.parametrize(
    ("peer", "library"), [("rectools", "pytorch_lightning"), ("replay", "lightning")]
)
def test_an_environment_without_the_peer_says_what_is_missing(tmp_path, peer, library):
    asked = request(sasrec(tmp_path), tmp_path)
    theirs = Theirs(PEERS[peer], sys.executable, asked, LIMITS)
    found = theirs.measure("train", tmp_path)
    assert found.outcome == f"failed: ModuleNotFoundError: No module named '{library}'"


@pytest.mark.slow
def test_the_rates_here_are_those_of_training_and_of_lists(tmp_path):
    experiment = sasrec(tmp_path / "root")
    write_dataset(small_experiment(tmp_path / "root"))
    asked = request(experiment, tmp_path)
    ours = Ours(toml_of(experiment, tmp_path), [], asked, LIMITS)
    for method in ("train", "rank"):
        found = ours.measure(method, tmp_path)
        assert found.outcome == DONE
        assert found.result["rate"] > 0


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("peer", "negatives", "form"),
    [
        (name, negatives, form)
        for name, peer in PEERS.items()
        for negatives in (0, 8)
        for form in peer.forms(negatives)
    ],
)
def test_a_peer_learns_the_next_item_and_ranks_every_item(tmp_path, peer, negatives, form):
    """Item i + 1 follows item i for every user. The last items have no events."""
    python = PYTHON_OF[peer]
    if python is None:
        pytest.skip(f"{peer.upper()}_PYTHON is not set: an interpreter with {PEERS[peer].name}")
    experiment = sasrec(
        tmp_path / "root",
        model={"dim": 16, "max_length": 3},
        optim={"lr": 0.01},
        train={"max_epochs": 30, "patience": 30},
    )
    users = [([(first + n) % 14 for n in range(8)], 6, 7) for first in range(14)] * 4
    write_sequences(experiment, users, num_items=21)
    write_split(experiment, tmp_path / "split.npz")
    asked = request(
        experiment, tmp_path / "split.npz", form=form, batch_users=16, negatives=negatives
    )
    theirs = Theirs(PEERS[peer], python, asked, LIMITS)
    found = theirs.measure("fit", tmp_path)
    assert found.outcome == DONE
    assert found.result["epochs"] == 30
    assert found.result["test"]["recall@10"] > 0.9
    for method in ("train", "rank"):
        assert theirs.measure(method, tmp_path).result["rate"] > 0


def test_the_models_here_are_trained_in_bf16_too_where_the_cpu_has_it():
    models = {"mdsrec here": ["seed=1"]}
    assert command.only_trained(["x=1"], models, in_bf16=False) == models
    assert command.only_trained(["x=1"], models, in_bf16=True) == {
        **models,
        "SASRec here, bf16": ["x=1", "train.precision=bf16"],
        "mdsrec here, bf16": ["seed=1", "train.precision=bf16"],
    }
