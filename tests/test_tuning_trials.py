"""The store of trials, the trials that a resumed search suggests, and the room that they need."""

import pytest

from mdsrec.config.tune import TuneConfig
from mdsrec.errors import InputError
from tuning.capacity import Machine, TrialSize, max_parallel_trials
from tuning.plan import Plan
from tuning.ray_tune.searcher import PlanSearcher
from tuning.trials import METRIC, Trial, TrialStore


def test_reports_are_stored_in_order_of_arrival_and_read_again(tmp_path):
    store = TrialStore(str(tmp_path))
    store.save(Trial(0, {"a": 0.5}, {"optim.lr": 0.5}))
    store.save(Trial(1, {"a": 0.1}, {"optim.lr": 0.1}))
    for number, epoch, value in [(0, 0, 0.2), (1, 0, 0.3), (0, 1, 0.1), (0, 1, 0.9), (0, 2, 0.4)]:
        epoch_metrics = {METRIC: value, "recall@10": 0.5, "loss": 1.0, "seconds": 2.0}
        store.add_report(number, {"epoch": epoch, **epoch_metrics})
    again = TrialStore(str(tmp_path))
    assert again.trials == store.trials
    assert again.report_history() == [(0, 0, 0.2), (1, 0, 0.3), (0, 1, 0.2), (0, 2, 0.4)]
    assert (again.trials[0].score, again.trials[0].epochs, again.trials[0].seconds) == (0.4, 3, 6.0)
    assert again.winner() is None
    again.add_report(1, {"epoch": 1, METRIC: 0.3, "recall@10": 0.5, "loss": 1.0, "seconds": 2.0})
    assert again.trials[1].reports[-1]["order"] == 4


def test_the_score_of_a_trial_is_the_mean_over_its_seeds(tmp_path):
    store = TrialStore(str(tmp_path))
    for number, values in enumerate([(0.9, 0.1), (0.6, 0.6), (0.8, 0.2)]):
        outcomes = [{METRIC: value, "epochs": 3, "seconds": 1.5} for value in values]
        store.save(Trial(number, {}, {}, state="finished", outcomes=outcomes))
    store.save(Trial(3, {}, {}, state="stopped", reports=[{METRIC: 0.99, "order": 0}]))
    winner = store.winner()
    assert winner is not None and winner.number == 1
    assert (winner.score, winner.epochs, winner.seconds) == (0.6, 6, 3.0)
    assert store.trials[0].spread == pytest.approx(0.8 / 2**0.5)


def test_a_damaged_trial_file_is_named(tmp_path):
    (tmp_path / "trials").mkdir()
    (tmp_path / "trials/00003.json").write_text('{"number": 3')
    with pytest.raises(InputError, match=r"trials/00003.json: damaged .*: delete it"):
        TrialStore(str(tmp_path))


@pytest.mark.parametrize(
    ("size", "machines", "count"),
    [
        (TrialSize(1, 0.9, 0), [Machine(2, 0)], 2),
        (TrialSize(2, 0.9, 0), [Machine(2, 0)], 1),
        (TrialSize(1, 1.0, 0), [Machine(2, 0)], 2),
        (TrialSize(2, 0.9, 0), [Machine(1, 0), Machine(1, 0)], 1),  # a trial may span machines
        (TrialSize(2, 4.0, 1), [Machine(64, 8)], 4),
        (TrialSize(4, 4.0, 1), [Machine(8, 2), Machine(8, 2), Machine(1, 0)], 1),
        (TrialSize(2, 1.0, 0), [Machine(2, 0)], 1),
    ],
)
def test_as_many_trials_run_in_parallel_as_fit_on_the_machines(size, machines, count):
    assert max_parallel_trials(size, machines, 100) == count
    assert max_parallel_trials(size, machines, 1) == 1


@pytest.mark.parametrize(
    ("size", "machines"),
    [
        (TrialSize(3, 0.9, 0), [Machine(2, 0)]),
        (TrialSize(1, 1.5, 0), [Machine(1, 0), Machine(1, 0)]),
        (TrialSize(2, 0.9, 1), [Machine(8, 1)]),
        (TrialSize(2, 1.1, 0), [Machine(2, 0)]),
    ],
)
def test_a_trial_that_does_not_fit_is_refused_with_the_numbers(size, machines):
    with pytest.raises(InputError, match=rf"a trial needs {size.workers} workers of .* has"):
        max_parallel_trials(size, machines, 5)


def test_values_that_exclude_each_other_make_a_failed_trial(tmp_path):
    space = {"model.dim": {"grid": [8, 9]}, "model.num_heads": {"grid": [1, 2]}}
    plan = Plan(TuneConfig(space=space, searcher="grid"), 0)
    store = TrialStore(str(tmp_path))

    def trial_config(trial):
        dim, heads = trial.values.values()
        if dim % heads:
            raise InputError(f"dim {dim} is not a multiple of num_heads {heads}")
        return {"number": trial.number}

    searcher = PlanSearcher(plan, store, trial_config)
    suggested = [searcher.suggest("any") for _ in range(4)]
    assert suggested == [{"number": 0}, {"number": 1}, {"number": 2}, PlanSearcher.FINISHED]
    assert {n: t.state for n, t in store.trials.items()} == {
        0: "running", 1: "running", 2: "running", 3: "failed",
    }  # fmt: skip
    assert store.trials[3].cause == "dim 9 is not a multiple of num_heads 2"


def test_a_resumed_search_suggests_running_and_failed_trials_first(tmp_path):
    plan = Plan(TuneConfig(space={"optim.lr": {"uniform": [1, 2]}}, trials=5), 0)
    before = TrialStore(str(tmp_path))
    trials = [Trial(number, *plan.draw(number, {})) for number in range(3)]
    trials[0].state, trials[2].state = "finished", "failed"
    for trial in trials:
        before.save(trial)
    store = TrialStore(str(tmp_path))
    searcher = PlanSearcher(plan, store, lambda trial: {"number": trial.number})
    assert searcher.num_left == 4
    assert [searcher.suggest("any") for _ in range(4)] == [{"number": n} for n in (1, 2, 3, 4)]
    assert [store.trials[n].values for n in (1, 2)] == [trials[n].values for n in (1, 2)]
    assert [(t.state, t.retries) for t in TrialStore(str(tmp_path)).in_order()] == [
        ("finished", 0), ("running", 0), ("running", 1), ("running", 0), ("running", 0),
    ]  # fmt: skip
    assert store.trials[4].values == plan.draw(4, {}).values


def test_the_first_of_equal_trials_wins_and_a_stopped_trial_never_does(tmp_path):
    store = TrialStore(str(tmp_path))
    ends = [("finished", 0.3), ("finished", 0.5), ("finished", 0.5), ("stopped", 0.9)]
    for number, (state, value) in enumerate(ends):
        store.save(Trial(number, {}, {}, state, outcomes=[{METRIC: value}]))
    assert store.winner() is store.trials[1]
    store.trials = dict(reversed(store.trials.items()))
    assert store.winner() is store.trials[1]
