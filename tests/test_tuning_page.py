"""What a sweep's page draws is what its trials say."""

import io
import tomllib
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest

from mdsrec.config.loading import load_experiment
from mdsrec.config.tune import Domain
from tuning.live import Live, in_words, table
from tuning.report.charts import axes_of, curves, importance, mean_line
from tuning.report.parallel_coordinates import parallel_coordinates
from tuning.report.results import parquet_of, toml_of
from tuning.sweep import Sweep
from tuning.trials import METRIC, Records, Trial


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


def test_a_simplex_of_two_is_one_axis_and_a_key_that_is_fixed_is_none():
    assert axes_of(TRIALS) == [
        ("model.num_neighbors", [5, 5, 9, 9], False),
        ("model.rho.text", [0.3, 0.6, 0.6, 0], False),
    ]
    assert [axis.key for axis in axes_of(TRIALS[:2])] == ["model.rho.text"]


def test_values_far_apart_are_on_a_log_scale_but_shares_are_not():
    values = [{"optim.lr": lr, "model.rho": {"a": lr, "b": 1 - lr}} for lr in (0.01, 0.2, 0.9)]
    axes = axes_of([Trial(number, {}, each) for number, each in enumerate(values)])
    assert [(axis.key, axis.is_log) for axis in axes] == [
        ("optim.lr", True),
        ("model.rho.a", False),
    ]


def test_a_curve_is_the_mean_over_trials_and_seeds_with_their_deviation():
    line = mean_line([(t.values["model.num_neighbors"], t) for t in TRIALS[:3]])
    assert np.array(line.points) == pytest.approx(np.array([(5, 0.13), (9, 0.30)]))
    spread = np.std([0.10, 0.12, 0.14, 0.16], ddof=1)
    expected = [(5, 0.13 - spread, 0.13 + spread), (9, 0.3, 0.3)]
    assert np.array(line.band) == pytest.approx(np.array(expected))


def test_each_key_has_a_chart_and_stopped_trials_are_dots_apart():
    [(neighbors, chart), (rho, dots)] = curves(TRIALS, SPACE)
    assert neighbors == "validation ndcg@10 by model.num_neighbors"
    assert rho == "validation ndcg@10 by model.rho.text"
    assert 'class="band series-0"' in chart and "not trained to the end, 9: 0.05" in chart
    assert "finished, 0.6: 0.3" in dots and 'class="line series-0 dots"' in dots
    assert 'class="band' not in dots


def test_parallel_coordinates_have_a_thread_a_trial_the_best_last():
    svg = parallel_coordinates(TRIALS)
    assert svg.count('class="thread"') == 3 and svg.count('class="thread best"') == 1
    assert svg.index("trial 2: 0.3000") > max(svg.index(f"trial {n}: ") for n in (0, 1, 3))
    assert parallel_coordinates(TRIALS[:1]) == ""


def test_the_key_that_decides_is_the_important_one():
    generator = np.random.default_rng(0)
    trials = []
    for number in range(40):
        lr, dim = generator.uniform(1, 2), int(generator.choice([8, 16, 32]))
        trials.append(trial(number, {"optim.lr": float(lr), "model.dim": dim}, float(lr)))
    found = importance(trials)
    assert found["optim.lr"] > 0.8 and sum(found.values()) == pytest.approx(1)
    assert importance(trials[:3]) == {}


def test_a_row_a_trial_with_its_values_and_cost():
    failed = Trial(4, {}, {"model.num_neighbors": 7, "model.rho": {"text": 1, "image": 0}})
    failed.state, failed.cause = "failed", "no room"
    rows = pq.read_table(io.BytesIO(parquet_of([*TRIALS, failed]))).to_pylist()
    assert [row["trial"] for row in rows] == [0, 1, 2, 3, 4]
    assert rows[0]["model.rho.text"] == 0.3 and rows[0]["model.num_neighbors"] == 5
    assert rows[0][METRIC] == pytest.approx(0.11) and rows[0]["runs"] == ["r0", "r0"]
    assert (rows[0]["epochs"], rows[0]["seconds"]) == (4, 3.0)
    assert (rows[3][METRIC], rows[3]["spread"], rows[3]["epochs"]) == (0.05, None, 1)
    assert (rows[4][METRIC], rows[4]["state"], rows[4]["cause"]) == (None, "failed", "no room")


def test_the_table_has_the_best_first_and_every_trial_that_runs():
    running = Trial(5, {}, {"model.num_neighbors": 1})
    lines = table([*TRIALS, running], 2)
    assert [line.split()[0] for line in lines] == ["trial", "2", "1", "5"]
    assert lines[1].endswith("0.3000  num_neighbors 9, rho text 0.6 image 0.4")
    assert in_words({"optim.decay": "none", "model.rho": {"a": 1}}) == "decay none, rho a 1"


def test_a_terminal_is_drawn_anew_and_a_log_hears_of_ends_alone(tmp_path, caplog):
    records = Records(str(tmp_path))
    for each in TRIALS[:2]:
        records.save(each)
    screen = io.StringIO()
    screen.isatty = lambda: True
    live = Live(records, 4, screen)
    live(TRIALS[0])
    live(TRIALS[1])
    assert screen.getvalue().count("2 of 4 trials: 2 finished") == 2
    assert "\x1b[4F" in screen.getvalue()  # back over four lines: the count, the head, two trials
    caplog.set_level("INFO", logger="tuning")
    live = Live(records, 4, io.StringIO())
    live(Trial(7, {}, {}))
    assert not caplog.messages
    live(TRIALS[1])
    assert caplog.messages[0].startswith("trial 1 finished after 4 epochs: valid ndcg@10 0.1500")


def test_the_winner_s_file_is_the_experiment_with_its_values(tmp_path):
    config = tmp_path / "a.toml"
    config.write_text(
        'name = "a"\nroot = "root"\n[input]\nedition = "2018"\nreviews = ["reviews.json"]\n'
        "[features.text]\nvectors = 'text.parquet'\n[features.image]\nvectors = 'image.parquet'\n"
        "[tune.space]\nmodel.num_neighbors = { choice = [5, 9] }\n"
        "model.rho = { simplex = ['text', 'image'] }\n"
    )
    sweep = Sweep(str(config), ["optim.lr=0.5"])
    (tmp_path / "best.toml").write_text(toml_of(sweep, TRIALS[2]))
    best = load_experiment(tmp_path / "best.toml")
    assert best.name == "a-best" and best.optim.lr == 0.5
    assert best.mdsrec.num_neighbors == 9 and best.mdsrec.rho == {"text": 0.6, "image": 0.4}
    same = load_experiment(config, ["optim.lr=0.5", *sweep.words(TRIALS[2].values)])
    assert {**best.identity(), "name": "a"} == same.identity()
    assert (best.input, best.root) == (same.input, same.root)
    content = tomllib.loads((tmp_path / "best.toml").read_text())
    assert "tune" not in content and content["model"].keys() == {"num_neighbors", "rho"}


def test_a_sweep_without_a_space_or_with_a_value_that_is_none_is_refused(tmp_path):
    config = tmp_path / "a.toml"
    head = 'name = "a"\nroot = "root"\n[input]\nedition = "2018"\nreviews = ["reviews.json"]\n'
    config.write_text(head)
    with pytest.raises(ValueError, match=r"no section \[tune.space\], so nothing to search"):
        Sweep(str(config), [])
    config.write_text(f"{head}[tune.space]\nmodel.num_neighbors = {{ choice = [5, 51] }}\n")
    with pytest.raises(ValueError, match=r"51 exceeds graph\.max_neighbors 50"):
        Sweep(str(config), []).check_values()


def test_names_of_runs_are_the_sweep_s_with_a_number(tmp_path):
    sweep = SimpleNamespace(experiment=SimpleNamespace(name="a", seed=7))
    for seeds, names in ((1, ["a-00012"]), (2, ["a-00012-0", "a-00012-1"])):
        sweep.tune = SimpleNamespace(seeds=seeds)
        found = [Sweep.identity(sweep, Trial(12, {}, {}), seed) for seed in range(seeds)]
        assert found == [{"name": n, "seed": 7 + s} for s, n in enumerate(names)]
