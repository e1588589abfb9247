"""ASHA makes the same decisions in a resumed sweep, and failed trials count in no rung."""

from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st

from mdsrec.config.tune import TuneConfig
from tuning.ray_tune.callbacks import TrialRecorder
from tuning.ray_tune.scheduler import ResumableASHA
from tuning.trials import METRIC, Trial, TrialStore

SETTINGS = TuneConfig(grace_epochs=1, reduction=3)


def ray_trial(number):
    return SimpleNamespace(config={"number": number}, trial_id=f"id-of-ray-{number}")


def decisions(asha, reports):
    """Return the decision on each report. Trials have Ray's ids."""
    added, found = set(), []
    for number, epoch, value in reports:
        if number not in added:
            added.add(number)
            asha.on_trial_add(None, ray_trial(number))
        result = {"epoch": epoch, METRIC: value}
        found.append(asha.on_trial_result(None, ray_trial(number), result))
    return found


def test_rungs_are_powers_of_the_reduction_below_the_last_epoch():
    assert ResumableASHA(SETTINGS, 12, ()).rungs() == [1, 3, 9]
    assert ResumableASHA(SETTINGS, 9, ()).rungs() == [1, 3]
    assert ResumableASHA(TuneConfig(grace_epochs=2, reduction=2), 12, ()).rungs() == [2, 4, 8]
    assert ResumableASHA(SETTINGS, 1, ()).rungs() == [1]


def test_a_trial_below_the_best_third_of_its_rung_is_stopped():
    reports = [(0, 0, 0.5), (1, 0, 0.4), (2, 0, 0.6), (3, 0, 0.1), (2, 1, 0.2), (2, 2, 0.9)]
    asha = ResumableASHA(SETTINGS, 12, ())
    found = decisions(asha, reports)
    assert found == ["CONTINUE", "STOP", "CONTINUE", "STOP", "CONTINUE", "CONTINUE"]
    assert asha.stopped == {1, 3}


def test_a_trial_is_compared_by_its_best_epoch_so_far():
    asha = ResumableASHA(SETTINGS, 12, ())
    reports = [(0, 0, 0.5), (0, 1, 0.2), (0, 2, 0.3), (1, 0, 0.6), (1, 1, 0.4), (1, 2, 0.4)]
    assert decisions(asha, reports) == ["CONTINUE"] * 6  # at epoch 3: .5, then .6


@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.floats(0, 1, allow_subnormal=False)),
        min_size=1,
        max_size=40,
    ),
    st.data(),
)
def test_a_resumed_sweep_makes_the_same_decisions_as_one_never_killed(arrivals, data):
    """Reports arrive from trials in any order; a stopped trial reports no more."""
    never_killed, reports, epochs = ResumableASHA(SETTINGS, 10, ()), [], [0] * 6
    added = set()
    for number, value in arrivals:
        if number in never_killed.stopped or epochs[number] >= 10:
            continue
        if number not in added:
            added.add(number)
            never_killed.on_trial_add(None, ray_trial(number))
        result = {"epoch": epochs[number], METRIC: value}
        decision = never_killed.on_trial_result(None, ray_trial(number), result)
        reports.append((number, epochs[number], value, decision))
        epochs[number] += 1
    killed_at = data.draw(st.integers(0, len(reports)))
    history, best = [], {}
    for number, epoch, value, _ in reports[:killed_at]:
        best[number] = max(value, best.get(number, value))
        history.append((number, epoch, best[number]))
    resumed = ResumableASHA(SETTINGS, 10, history)
    rest = [(number, epoch, value) for number, epoch, value, _ in reports[killed_at:]]
    assert decisions(resumed, rest) == [decision for *_, decision in reports[killed_at:]]
    assert resumed.stopped == never_killed.stopped


def test_a_failed_trial_is_recorded_with_its_cause_and_counts_in_no_rung(tmp_path):
    store, asha, shown = TrialStore(str(tmp_path)), ResumableASHA(SETTINGS, 12, ()), []
    recorder = TrialRecorder(store, asha, lambda _: [], shown.append)
    for number in (0, 1):
        store.save(Trial(number, {}, {}))
        asha.on_trial_add(None, ray_trial(number))
    result = {METRIC: float("nan"), "cause": "no room"}
    assert asha.on_trial_result(None, ray_trial(0), result) == "CONTINUE"
    recorder.on_trial_result(0, [], ray_trial(0), result)
    (tmp_path / "error.txt").write_text("Failure # 1\n\nThe node has died\n")
    error = {"num_failures": 4, "error_file": str(tmp_path / "error.txt")}
    lost = SimpleNamespace(**vars(ray_trial(1)), **error)
    recorder.on_trial_error(0, [], lost)
    assert [(t.state, t.cause) for t in TrialStore(str(tmp_path)).trials.values()] == [
        ("failed", "no room"),
        ("failed", "its process was lost 4 times: The node has died"),
    ]
    assert asha.stopped == set() and shown == list(store.trials.values())


def test_a_failed_trial_keeps_its_checkpoints_until_it_has_finished(tmp_path):
    run = SimpleNamespace(root=str(tmp_path), name="a-00000")
    checkpoints = tmp_path / "runs/a-00000/checkpoints"
    checkpoints.mkdir(parents=True)
    store = TrialStore(str(tmp_path))
    store.save(Trial(0, {}, {}))
    recorder = TrialRecorder(store, None, lambda _: [run], lambda _: None)
    recorder.on_trial_result(0, [], ray_trial(0), {"cause": "no room"})
    recorder.delete_checkpoints()
    assert checkpoints.exists()
    recorder.on_trial_result(0, [], ray_trial(0), {"history": [], "outcomes": [], "built": []})
    recorder.delete_checkpoints()
    assert not checkpoints.exists()
    assert (store.trials[0].state, store.trials[0].cause) == ("finished", "")
