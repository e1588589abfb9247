"""Tables, charts and files of a sweep show the values and metrics of its trials."""

import io
import re
import tomllib
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest

from mdsrec.config.loading import load_experiment
from mdsrec.config.tune import Domain
from mdsrec.errors import InputError
from tuning.live import SweepDisplay, table_rows
from tuning.report.charts import key_importance, mean_line, metric_charts, varying_axes
from tuning.report.parallel_coordinates import on_its_side, parallel_coordinates, upright
from tuning.report.results import trials_parquet, winner_toml, write_results
from tuning.sweep import Sweep
from tuning.trials import METRIC, Trial, TrialStore, format_values


def trial(number, values, *metrics, state="finished"):
    if state != "finished":
        reports = [{"order": number, "epoch": 0, METRIC: metrics[0], "seconds": 1.0}]
        return Trial(number, {}, values, state=state, reports=reports)
    outcomes = [{METRIC: m, "epochs": 2, "seconds": 1.5, "run": f"r{number}"} for m in metrics]
    return Trial(number, {}, values, state=state, outcomes=outcomes)


TRIALS = [
    trial(0, {"model.num_neighbors": 5, "model.rho": {"text": 0.3, "image": 0.7}}, 0.10, 0.12),
    trial(1, {"model.num_neighbors": 5, "model.rho": {"text": 0.6, "image": 0.4}}, 0.14, 0.16),
    trial(2, {"model.num_neighbors": 9, "model.rho": {"text": 0.6, "image": 0.4}}, 0.30, 0.30),
    trial(
        3, {"model.num_neighbors": 9, "model.rho": {"text": 0, "image": 1}}, 0.05, state="stopped"
    ),
]
SPACE = {
    "model.num_neighbors": Domain(grid=(5, 9)),
    "model.rho": Domain(simplex=("text", "image")),
}


def test_a_simplex_of_two_is_one_axis_and_a_constant_key_has_no_axis():
    assert varying_axes(TRIALS) == [
        ("model.num_neighbors", [5, 5, 9, 9], False),
        ("model.rho.text", [0.3, 0.6, 0.6, 0], False),
    ]
    assert [axis.key for axis in varying_axes(TRIALS[:2])] == ["model.rho.text"]


def test_a_wide_range_has_a_log_scale_but_shares_do_not():
    values = [{"optim.lr": lr, "model.rho": {"a": lr, "b": 1 - lr}} for lr in (0.01, 0.2, 0.9)]
    axes = varying_axes([Trial(number, {}, each) for number, each in enumerate(values)])
    assert [(axis.key, axis.is_log) for axis in axes] == [
        ("optim.lr", True),
        ("model.rho.a", False),
    ]


def test_the_line_is_the_mean_over_trials_and_seeds_with_a_band_of_one_deviation():
    line = mean_line([(t.values["model.num_neighbors"], t) for t in TRIALS[:3]])
    assert np.array(line.points) == pytest.approx(np.array([(5, 0.13), (9, 0.30)]))
    spread = np.std([0.10, 0.12, 0.14, 0.16], ddof=1)
    expected = [(5, 0.13 - spread, 0.13 + spread), (9, 0.3, 0.3)]
    assert np.array(line.band) == pytest.approx(np.array(expected))


def test_each_key_has_a_chart_with_stopped_trials_as_separate_dots():
    [(neighbors, chart), (rho, dots)] = metric_charts(TRIALS, SPACE)
    assert neighbors == "validation ndcg@10 by model.num_neighbors"
    assert rho == "validation ndcg@10 by model.rho.text"
    assert 'class="band series-0"' in chart and "not finished, 9: 0.05" in chart
    assert "finished, 0.6: 0.3" in dots and 'class="line series-0 dots"' in dots
    assert 'class="band' not in dots


def test_parallel_coordinates_have_a_line_per_trial_and_draw_the_best_last():
    svg = parallel_coordinates(TRIALS)
    assert svg.count('class="trial-line"') == 3 and svg.count('class="trial-line best"') == 1
    assert svg.index("trial 2: 0.3000") > max(svg.index(f"trial {n}: ") for n in (0, 1, 3))
    assert parallel_coordinates(TRIALS[:1]) == ""


def test_parallel_coordinates_lie_on_their_side_for_a_narrow_screen():
    """Trial 2 has the highest value of every axis: it is a line at the top, or on the right."""
    best = r'class="trial-line best" d="M([\d.]+) ([\d.]+)L([\d.]+) ([\d.]+)L([\d.]+) ([\d.]+)"'
    [wide], [narrow] = (
        re.findall(best, parallel_coordinates(TRIALS, layout)) for layout in (upright, on_its_side)
    )
    for path, along in ((wide, 0), (narrow, 1)):
        steps, same = ([*map(float, path[axis::2])] for axis in (along, 1 - along))
        assert steps == sorted(set(steps)) and len(set(same)) == 1


def test_the_key_that_determines_the_metric_has_the_highest_importance():
    generator = np.random.default_rng(0)
    trials = []
    for number in range(40):
        lr, dim = generator.uniform(1, 2), int(generator.choice([8, 16, 32]))
        trials.append(trial(number, {"optim.lr": float(lr), "model.dim": dim}, float(lr)))
    found = key_importance(trials)
    assert found["optim.lr"] > 0.8 and sum(found.values()) == pytest.approx(1)
    assert key_importance(trials[:3]) == {}


def test_the_parquet_file_has_a_row_per_trial_with_values_metrics_and_cost():
    failed = Trial(4, {}, {"model.num_neighbors": 7, "model.rho": {"text": 1, "image": 0}})
    failed.state, failed.cause, failed.retries = "failed", "no room", 2
    rows = pq.read_table(io.BytesIO(trials_parquet([*TRIALS, failed]))).to_pylist()
    assert [row["trial"] for row in rows] == [0, 1, 2, 3, 4]
    assert rows[0]["model.rho.text"] == 0.3 and rows[0]["model.num_neighbors"] == 5
    assert rows[0][METRIC] == pytest.approx(0.11) and rows[0]["runs"] == ["r0", "r0"]
    assert (rows[0]["epochs"], rows[0]["seconds"]) == (4, 3.0)
    assert (rows[3][METRIC], rows[3]["spread"], rows[3]["epochs"]) == (0.05, None, 1)
    assert (rows[4][METRIC], rows[4]["state"], rows[4]["cause"]) == (None, "failed", "no room")
    assert [row["retries"] for row in rows] == [0, 0, 0, 0, 2]


def test_the_table_has_the_best_trials_first_and_every_running_trial():
    running = Trial(5, {}, {"model.num_neighbors": 1})
    rows = table_rows([*TRIALS, running], 2)
    assert [row[0] for row in rows] == ["2", "1", "5"]
    values = "num_neighbors 9, rho text 0.6 image 0.4"
    assert rows[0] == ["2", "finished", values, "4", "0.3000"]
    assert rows[2] == ["5", "running", "num_neighbors 1", "0", "-"]
    assert format_values({"optim.decay": "none", "model.rho": {"a": 1}}) == "decay none, rho a 1"


@pytest.fixture
def store(tmp_path):
    found = TrialStore(str(tmp_path))
    for each in TRIALS[:2]:
        found.save(each)
    return found


def test_a_terminal_shows_a_table_that_is_redrawn_in_place(store, monkeypatch, caplog):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "60")
    caplog.set_level("INFO", logger="tuning")
    screen = io.StringIO()
    screen.isatty = lambda: True
    with SweepDisplay(store, 4, screen) as display:
        display.update(TRIALS[0])
        display.update(TRIALS[1])
        assert screen.getvalue().count("2 of 4 trials: 2 finished") == 2
        assert screen.getvalue().count("\x1b[1A") == 3  # up over the second to fourth lines
    lines = screen.getvalue().split("\x1b[1A")[-1].splitlines()
    assert "finished  num_neighbors 5, rho text\N{HORIZONTAL ELLIPSIS}" in lines[2]
    assert lines[2].endswith("4   0.1500")
    assert not caplog.messages


def test_without_a_terminal_only_ended_trials_are_logged(store, caplog):
    caplog.set_level("INFO", logger="tuning")
    with SweepDisplay(store, 4, io.StringIO()) as display:
        display.update(Trial(7, {}, {}))
        assert not caplog.messages
        display.update(TRIALS[1])
    expected = "trial 1 finished after 4 epochs: validation ndcg@10 0.1500"
    assert caplog.messages[0].startswith(expected)


def test_best_toml_is_the_experiment_with_the_values_of_the_winner(tmp_path):
    config = tmp_path / "a.toml"
    config.write_text(
        'name = "a"\nroot = "root"\n[input]\nedition = "2018"\nreviews = ["reviews.json"]\n'
        "[features.text]\nvectors = 'text.parquet'\n[features.image]\nvectors = 'image.parquet'\n"
        "[tune.space]\nmodel.num_neighbors = { choice = [5, 9] }\n"
        "model.rho = { simplex = ['text', 'image'] }\n"
    )
    sweep = Sweep(str(config), ["optim.lr=0.5"])
    (tmp_path / "best.toml").write_text(winner_toml(sweep, TRIALS[2]))
    best = load_experiment(tmp_path / "best.toml")
    assert best.name == "a-best" and best.optim.lr == 0.5
    assert best.model.num_neighbors == 9 and best.model.rho == {"text": 0.6, "image": 0.4}
    same = load_experiment(config, ["optim.lr=0.5", *sweep.overrides_for(TRIALS[2].values)])
    assert {**best.identity(), "name": "a"} == same.identity()
    assert (best.input, best.root) == (same.input, same.root)
    content = tomllib.loads((tmp_path / "best.toml").read_text())
    assert "tune" not in content and content["model"].keys() == {"num_neighbors", "rho"}


@pytest.mark.parametrize("key", ["max_epochs", "patience"])
def test_a_sweep_does_not_go_on_with_other_limits_as_a_run_does(tmp_path, key):
    config = tmp_path / "a.toml"
    config.write_text(
        f'name = "a"\nroot = "{tmp_path}"\n[input]\nedition = "2018"\nreviews = ["a.json"]\n'
        "[tune.space]\noptim.lr = { choice = [0.1, 0.2] }\n"
    )
    sweep, other = (Sweep(str(config), [f"train.{key}={n}"]) for n in (5, 6))
    sweep.claim_name(resume=False)
    assert sweep.experiment.identity() == other.experiment.identity()
    with pytest.raises(InputError, match="sweep a has another configuration or space"):
        other.claim_name(resume=True)
    sweep.claim_name(resume=True)


def test_a_sweep_without_a_space_or_with_an_invalid_value_is_refused(tmp_path):
    config = tmp_path / "a.toml"
    head = 'name = "a"\nroot = "root"\n[input]\nedition = "2018"\nreviews = ["reviews.json"]\n'
    config.write_text(head)
    with pytest.raises(ValueError, match=r"no section \[tune.space\], so nothing to search"):
        Sweep(str(config), [])
    config.write_text(f"{head}[tune.space]\nmodel.num_neighbors = {{ choice = [5, 51] }}\n")
    with pytest.raises(ValueError, match=r"51 exceeds graph\.max_neighbors 50"):
        Sweep(str(config), []).check_values()


def test_runs_are_named_after_the_sweep_the_trial_and_the_seed(tmp_path):
    sweep = SimpleNamespace(experiment=SimpleNamespace(name="a", seed=7))
    for seeds, names in ((1, ["a-00012"]), (2, ["a-00012-0", "a-00012-1"])):
        sweep.tune = SimpleNamespace(seeds=seeds)
        found = [Sweep.run_keys(sweep, Trial(12, {}, {}), seed) for seed in range(seeds)]
        assert found == [{"name": n, "seed": 7 + s} for s, n in enumerate(names)]


def grid_sweep(tmp_path, *states_and_causes):
    """Return a sweep of a grid of three trials, of which some have ended."""
    config = tmp_path / "a.toml"
    config.write_text(
        f'name = "a"\nroot = "{tmp_path}"\n[input]\nedition = "2018"\nreviews = ["reviews.json"]\n'
        "[tune]\nsearcher = 'grid'\n[tune.space]\nmodel.num_neighbors = { grid = [5, 7, 9] }\n"
    )
    sweep = Sweep(str(config), [])
    for number, (state, cause) in enumerate(states_and_causes):
        values = {"model.num_neighbors": 5 + 2 * number}
        sweep.store.save(Trial(number, {}, values, state=state, cause=cause))
    return sweep


def test_a_sweep_without_a_finished_trial_is_an_error_with_the_commonest_cause(tmp_path, capsys):
    failures = [("failed", "loss is not finite"), ("failed", "no room"), ("failed", "no room")]
    with pytest.raises(InputError, match=r"^3 of 3 trials failed: no room \(2 of them\): "):
        write_results(grid_sweep(tmp_path, *failures))
    assert "num_neighbors 9" in capsys.readouterr().out
    assert (tmp_path / "sweeps/a/trials.parquet").exists()


def test_failures_are_counted_while_trials_are_left(tmp_path):
    text = write_results(grid_sweep(tmp_path, ("failed", "no room")))
    assert "1 of 3 trials failed: no room; --resume tries them again" in text
    assert text.endswith("2 of 3 trials are left: continue with --resume")
