"""Halving goes on after a kill as if there had been none, and a trial's size is checked first."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdsrec.config.tune import TuneConfig
from mdsrec.errors import InputError
from tuning.capacity import Machine, Size, trials_at_once
from tuning.plan import Plan
from tuning.ray_tune.callbacks import Journal
from tuning.ray_tune.scheduler import Halving
from tuning.ray_tune.searcher import PlannedSearch
from tuning.trials import METRIC, Records, Trial

SETTINGS = TuneConfig(grace_epochs=1, reduction=3)


def live(number):
    return SimpleNamespace(config={"number": number}, trial_id=f"whatever-{number}")


def decisions(halving, reports):
    """What is decided on each report, trials known as Ray knows them."""
    added, found = set(), []
    for number, epoch, value in reports:
        if number not in added:
            added.add(number)
            halving.on_trial_add(None, live(number))
        result = {"epoch": epoch, METRIC: value}
        found.append(halving.on_trial_result(None, live(number), result))
    return found


def test_rungs_are_powers_of_the_reduction_below_the_last_epoch():
    assert Halving(SETTINGS, 12, ()).rungs() == [1, 3, 9]
    assert Halving(SETTINGS, 9, ()).rungs() == [1, 3]
    assert Halving(TuneConfig(grace_epochs=2, reduction=2), 12, ()).rungs() == [2, 4, 8]
    assert Halving(SETTINGS, 1, ()).rungs() == [1]


def test_a_trial_below_the_best_third_of_its_rung_ends_there():
    reports = [(0, 0, 0.5), (1, 0, 0.4), (2, 0, 0.6), (3, 0, 0.1), (2, 1, 0.2), (2, 2, 0.9)]
    halving = Halving(SETTINGS, 12, ())
    told = decisions(halving, reports)
    assert told == ["CONTINUE", "STOP", "CONTINUE", "STOP", "CONTINUE", "CONTINUE"]
    assert halving.stopped == {1, 3}


def test_a_trial_counts_by_its_best_epoch():
    halving = Halving(SETTINGS, 12, ())
    reports = [(0, 0, 0.5), (0, 1, 0.2), (0, 2, 0.3), (1, 0, 0.6), (1, 1, 0.4), (1, 2, 0.4)]
    assert decisions(halving, reports) == ["CONTINUE"] * 6  # at epoch 3: .5, then .6


@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.floats(0, 1, allow_subnormal=False)),
        min_size=1,
        max_size=40,
    ),
    st.data(),
)
def test_a_sweep_that_goes_on_decides_as_one_never_killed(arrivals, data):
    """Reports arrive in any order of trials; those that were stopped report no more."""
    never_killed, reports, epochs = Halving(SETTINGS, 10, ()), [], [0] * 6
    added = set()
    for number, value in arrivals:
        if number in never_killed.stopped or epochs[number] >= 10:
            continue
        if number not in added:
            added.add(number)
            never_killed.on_trial_add(None, live(number))
        result = {"epoch": epochs[number], METRIC: value}
        told = never_killed.on_trial_result(None, live(number), result)
        reports.append((number, epochs[number], value, told))
        epochs[number] += 1
    killed_at = data.draw(st.integers(0, len(reports)))
    seen, best = [], {}
    for number, epoch, value, _ in reports[:killed_at]:
        best[number] = max(value, best.get(number, value))
        seen.append((number, epoch, best[number]))
    resumed = Halving(SETTINGS, 10, seen)
    rest = [(number, epoch, value) for number, epoch, value, _ in reports[killed_at:]]
    assert decisions(resumed, rest) == [told for *_, told in reports[killed_at:]]
    assert resumed.stopped == never_killed.stopped


def test_records_stand_as_they_were_told(tmp_path):
    records = Records(str(tmp_path))
    records.save(Trial(0, {"a": 0.5}, {"optim.lr": 0.5}))
    records.save(Trial(1, {"a": 0.1}, {"optim.lr": 0.1}))
    for number, epoch, value in [(0, 0, 0.2), (1, 0, 0.3), (0, 1, 0.1), (0, 1, 0.9), (0, 2, 0.4)]:
        epoch_metrics = {METRIC: value, "recall@10": 0.5, "loss": 1.0, "seconds": 2.0}
        records.report(number, {"epoch": epoch, **epoch_metrics})
    again = Records(str(tmp_path))
    assert again.trials == records.trials
    assert again.reports() == [(0, 0, 0.2), (1, 0, 0.3), (0, 1, 0.2), (0, 2, 0.4)]
    assert (again.trials[0].best, again.trials[0].epochs, again.trials[0].seconds) == (0.4, 3, 6.0)
    assert again.winner() is None
    again.report(1, {"epoch": 1, METRIC: 0.3, "recall@10": 0.5, "loss": 1.0, "seconds": 2.0})
    assert again.trials[1].reports[-1]["order"] == 4


def test_a_trial_of_several_seeds_counts_by_their_mean(tmp_path):
    records = Records(str(tmp_path))
    for number, values in enumerate([(0.9, 0.1), (0.6, 0.6), (0.8, 0.2)]):
        outcomes = [{METRIC: value, "epochs": 3, "seconds": 1.5} for value in values]
        records.save(Trial(number, {}, {}, state="finished", outcomes=outcomes))
    records.save(Trial(3, {}, {}, state="stopped", reports=[{METRIC: 0.99, "order": 0}]))
    winner = records.winner()
    assert winner is not None and winner.number == 1
    assert (winner.best, winner.epochs, winner.seconds) == (0.6, 6, 3.0)
    assert records.trials[0].spread == pytest.approx(0.8 / 2**0.5)


def test_a_damaged_record_is_named(tmp_path):
    (tmp_path / "trials").mkdir()
    (tmp_path / "trials/00003.json").write_text('{"number": 3')
    with pytest.raises(InputError, match=r"trials/00003.json: damaged .*: delete it"):
        Records(str(tmp_path))


@pytest.mark.parametrize(
    ("size", "machines", "count"),
    [
        (Size(1, 0.9, 0), [Machine(2, 0)], 2),
        (Size(2, 0.9, 0), [Machine(2, 0)], 1),
        (Size(1, 1.0, 0), [Machine(2, 0)], 2),
        (Size(2, 0.9, 0), [Machine(1, 0), Machine(1, 0)], 1),  # a trial may span machines
        (Size(2, 4.0, 1), [Machine(64, 8)], 4),
        (Size(4, 4.0, 1), [Machine(8, 2), Machine(8, 2), Machine(1, 0)], 1),
        (Size(2, 1.0, 0), [Machine(2, 0)], 1),
    ],
)
def test_as_many_trials_run_at_once_as_have_room(size, machines, count):
    assert trials_at_once(size, machines, 100) == count
    assert trials_at_once(size, machines, 1) == 1


@pytest.mark.parametrize(
    ("size", "machines"),
    [
        (Size(3, 0.9, 0), [Machine(2, 0)]),
        (Size(1, 1.5, 0), [Machine(1, 0), Machine(1, 0)]),
        (Size(2, 0.9, 1), [Machine(8, 1)]),
        (Size(2, 1.1, 0), [Machine(2, 0)]),
    ],
)
def test_a_trial_without_room_is_refused_with_the_numbers(size, machines):
    with pytest.raises(InputError, match=rf"a trial takes {size.workers} workers of .* has"):
        trials_at_once(size, machines, 5)


def test_values_that_do_not_go_together_are_a_failed_trial(tmp_path):
    space = {"model.dim": {"grid": [8, 9]}, "model.num_heads": {"grid": [1, 2]}}
    plan = Plan(TuneConfig(space=space, searcher="grid"), 0)
    records = Records(str(tmp_path))

    def config_of(trial):
        dim, heads = trial.values.values()
        if dim % heads:
            raise InputError(f"dim {dim} is not a multiple of num_heads {heads}")
        return {"number": trial.number}

    search = PlannedSearch(plan, records, config_of)
    suggested = [search.suggest("any") for _ in range(4)]
    assert suggested == [{"number": 0}, {"number": 1}, {"number": 2}, PlannedSearch.FINISHED]
    assert {n: t.state for n, t in records.trials.items()} == {
        0: "running", 1: "running", 2: "running", 3: "failed",
    }  # fmt: skip
    assert records.trials[3].cause == "dim 9 is not a multiple of num_heads 2"


def test_a_search_that_goes_on_takes_trials_under_way_first_and_ended_ones_never(tmp_path):
    plan = Plan(TuneConfig(space={"optim.lr": {"uniform": [1, 2]}}, trials=5), 0)
    before = Records(str(tmp_path))
    drawn = [Trial(number, *plan.draw(number, {})) for number in range(3)]
    drawn[0].state, drawn[2].state = "finished", "failed"
    for trial in drawn:
        before.save(trial)
    records = Records(str(tmp_path))
    search = PlannedSearch(plan, records, lambda trial: {"number": trial.number})
    assert search.num_left == 3
    assert [search.suggest("any") for _ in range(3)] == [{"number": n} for n in (1, 3, 4)]
    assert records.trials[1].values == drawn[1].values
    assert records.trials[4].values == plan.draw(4, {}).values


def test_of_equal_trials_the_first_wins_and_one_that_was_stopped_never(tmp_path):
    records = Records(str(tmp_path))
    ends = [("finished", 0.3), ("finished", 0.5), ("finished", 0.5), ("stopped", 0.9)]
    for number, (state, value) in enumerate(ends):
        records.save(Trial(number, {}, {}, state, outcomes=[{METRIC: value}]))
    assert records.winner() is records.trials[1]
    records.trials = dict(reversed(records.trials.items()))
    assert records.winner() is records.trials[1]


def test_a_cause_fails_a_trial_and_counts_in_no_rung(tmp_path):
    records, halving, told = Records(str(tmp_path)), Halving(SETTINGS, 12, ()), []
    journal = Journal(records, halving, lambda _: [], told.append)
    for number in (0, 1):
        records.save(Trial(number, {}, {}))
        halving.on_trial_add(None, live(number))
    result = {METRIC: float("nan"), "cause": "no room"}
    assert halving.on_trial_result(None, live(0), result) == "CONTINUE"
    journal.on_trial_result(0, [], live(0), result)
    (tmp_path / "error.txt").write_text("Failure # 1\n\nThe node has died\n")
    lost = SimpleNamespace(**vars(live(1)), num_failures=4, error_file=str(tmp_path / "error.txt"))
    journal.on_trial_error(0, [], lost)
    assert [(t.state, t.cause) for t in Records(str(tmp_path)).trials.values()] == [
        ("failed", "no room"),
        ("failed", "its process was lost 4 times: The node has died"),
    ]
    assert halving.stopped == set() and told == list(records.trials.values())
