"""Sweeps run from the command line, on a small catalogue of raw files."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
from raw_catalogue import small_toml, write_raw
from ray_processes import ray_processes

from training.lifecycle.lease import run_lease

ROOT = Path(__file__).parent.parent
CPUS = len(os.sched_getaffinity(0))
MORE = """num_neighbors = 5
[optim]
lr = 3e-3
[train]
max_epochs = 2
[tune]
scheduler = "none"
"""

pytestmark = [pytest.mark.ray, pytest.mark.spark]


class Workspace:
    """A folder with raw files, a configuration and the results of sweeps."""

    def __init__(self, folder):
        self.folder = folder
        self.config = small_toml(folder, MORE)
        write_raw(folder)

    def start(self, *words):
        # A child of the test process may inherit an ignored SIGINT.
        command = ["env", "--default-signal=INT", sys.executable, "-m", *words]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *words):
        process = self.start(*words)
        out, err = process.communicate()
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def sweep(self, name, *words):
        done = self.run("tuning", self.config, f"name={name}", *words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def trials(self, name):
        return pq.read_table(self.folder / f"root/sweeps/{name}/trials.parquet").to_pylist()

    def trial_files(self, name):
        found = sorted((self.folder / f"root/sweeps/{name}/trials").glob("*.json"))
        return [json.loads(path.read_text()) for path in found]

    def history(self, run):
        return json.loads((self.folder / f"root/runs/{run}/history.json").read_text())


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return Workspace(tmp_path_factory.mktemp("workspace"))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_sweep_with_its_trials_kept_and_says_how_to_go_on(workspace, signum):
    name = f"ended-{signum}"
    job = workspace.start("tuning", workspace.config, f"name={name}", "train.max_epochs=500")
    while not any(trial["reports"] for trial in workspace.trial_files(name)):
        assert job.poll() is None, job.communicate()
        time.sleep(0.1)
    job.send_signal(signum)
    _, error = job.communicate()
    assert job.returncode == 128 + signum, error
    assert "run the same command with --resume to go on" in error.splitlines()[-1]
    assert "Traceback" not in error
    assert workspace.trial_files(name)[0]["state"] == "running"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_grid_has_a_winner_and_only_the_winner_is_ranked(workspace):
    space = "tune.space={model.num_neighbors={grid=[0,5]}}"
    output = workspace.sweep("grid", "tune.searcher=grid", space)
    trials = workspace.trials("grid")
    assert [(t["trial"], t["model.num_neighbors"], t["state"]) for t in trials] == [
        (0, 0, "finished"),
        (1, 5, "finished"),
    ]
    for trial in trials:
        assert trial["built"] == []
        history = workspace.history(f"grid-{trial['trial']:05d}")
        assert trial["ndcg@10"] == history["epochs"][history["best_epoch"]]["ndcg@10"]
        assert not (workspace.folder / f"root/runs/grid-{trial['trial']:05d}/checkpoints").exists()
    best = max(trials, key=lambda t: t["ndcg@10"])["trial"]
    ranked = [p.parent.name for p in (workspace.folder / "root/runs").glob("*/metrics.json")]
    assert ranked == [f"grid-{best:05d}"]
    metrics = json.loads((workspace.folder / f"root/runs/{ranked[0]}/metrics.json").read_text())
    test = metrics["split"]["test"]["all"]
    assert f"test        recall@10 {test['recall@10']:.4f}  ndcg@10 {test['ndcg@10']:.4f}" in output
    page = (workspace.folder / "root/sweeps/grid/report.html").read_text()
    assert "grid: 2 trials" in page and f"{test['ndcg@10']:.4f}" in page
    again = workspace.sweep("grid", "tune.searcher=grid", space)
    assert output.endswith(again) and again.startswith("trial  state")
    other = workspace.run(
        "tuning", workspace.config, "name=grid", "tune.searcher=grid", f"{space[:-3]},3]}}}}"
    )
    assert other.returncode == 2
    assert "sweep grid has another configuration or space" in other.stderr


def wait_for(condition, process, seconds=400):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.1)


def results(trials):
    """Return the results of a sweep without times."""
    return [
        (
            r["number"],
            r["values"],
            r["state"],
            [(report["epoch"], report["ndcg@10"]) for report in r["reports"]],
            [outcome["ndcg@10"] for outcome in r["outcomes"]],
        )
        for r in trials
    ]


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_killed_and_resumed_sweep_equals_one_never_killed(workspace):
    words = (
        "tune.scheduler=asha", "tune.trials=4", "tune.concurrent=1", "tune.reduction=2",
        "train.max_epochs=4", "model.dropout=0.3",
        "tune.space={optim.lr={loguniform=[1e-4,1e-2]},model.num_neighbors={choice=[0,5]}}",
    )  # fmt: skip
    workspace.sweep("whole", *words)

    def in_trial(number):
        trials = workspace.trial_files("killed")
        return trials[number:] and trials[-1]["state"] == "running" and trials[-1]["reports"]

    def kill_in_trial(number, *more):
        process = workspace.start("tuning", workspace.config, "name=killed", *words, *more)
        wait_for(lambda: in_trial(number), process)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()

    kill_in_trial(0)
    kill_in_trial(3, "--resume")
    first = workspace.folder / "root/runs/killed-00000"
    before = (first / "best.safetensors").stat().st_mtime_ns
    refused = workspace.run("tuning", workspace.config, "name=killed", *words)
    assert refused.returncode == 2
    assert "of 4 trials: continue it with --resume" in refused.stderr
    workspace.sweep("killed", *words, "--resume")
    assert results(workspace.trial_files("killed")) == results(workspace.trial_files("whole"))
    assert {r["state"] for r in workspace.trial_files("whole")} == {"finished", "stopped"}
    assert (first / "best.safetensors").stat().st_mtime_ns == before


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_trial_whose_process_is_lost_starts_again_with_the_same_result(workspace):
    words = (
        "tune.trials=2", "tune.concurrent=1", "train.max_epochs=8",
        "tune.space={optim.lr={loguniform=[1e-4,1e-2]}}",
    )  # fmt: skip
    workspace.sweep("undisturbed", *words)
    with run_lease(
        str(workspace.folder / "root/runs/lost-00000")
    ):  # as a driver that is cut off would hold it
        process = workspace.start("tuning", workspace.config, "name=lost", *words)
        wait_for(
            lambda: (
                workspace.trial_files("lost")[:1] and workspace.trial_files("lost")[0]["reports"]
            ),
            process,
        )
    [driver] = ray_processes(psutil.Process(process.pid), "ImplicitFunc")
    driver.kill()
    _, err = process.communicate()
    assert process.returncode == 0, err
    assert "trial 0: its process was lost, it starts again" in err
    assert results(workspace.trial_files("lost")) == results(workspace.trial_files("undisturbed"))


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_training_best_toml_reproduces_the_metric_of_the_winner(workspace):
    words = ("tune.trials=3", "tune.space={optim.lr={loguniform=[1e-3,1e-2]}}", "tune.seeds=2")
    workspace.sweep("seeds", *words)
    trials = workspace.trial_files("seeds")
    assert [len(trial["outcomes"]) for trial in trials] == [2, 2, 2]
    assert [o["seed"] for o in trials[0]["outcomes"]] == [0, 1]
    means = [sum(o["ndcg@10"] for o in trial["outcomes"]) / 2 for trial in trials]
    rows = workspace.trials("seeds")
    assert [row["ndcg@10"] for row in rows] == pytest.approx(means, abs=1e-12)
    best = trials[means.index(max(means))]
    done = workspace.run("training", str(workspace.folder / "root/sweeps/seeds/best.toml"))
    assert done.returncode == 0, done.stderr
    history = workspace.history("seeds-best")
    trained = history["epochs"][history["best_epoch"]]["ndcg@10"]
    assert trained == pytest.approx(best["outcomes"][0]["ndcg@10"], abs=1e-6)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_trial_that_fails_is_recorded_and_the_sweep_continues(workspace):
    output = workspace.sweep(
        "fails", "tune.searcher=grid", "tune.space={optim.lr={choice=[1e30,3e-3]}}"
    )
    [bad, good] = workspace.trials("fails")
    assert (bad["state"], good["state"]) == ("failed", "finished")
    assert " not finite at epoch 0" in bad["cause"] and "lower optim.lr" in bad["cause"]
    assert "best        trial 1: lr 0.003" in output


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_sweep_whose_trials_all_failed_is_an_error_and_resume_tries_them_again(workspace):
    words = ("tuning", workspace.config, "name=again", "tune.searcher=grid")
    space = "tune.space={optim.lr={choice=[3e-3]}}"
    in_the_way = workspace.folder / "root/runs/again-00000"
    in_the_way.parent.mkdir(parents=True, exist_ok=True)
    in_the_way.write_text("a file, where the run needs a folder")
    for retries, resume in enumerate([[], ["--resume"]]):
        failed = workspace.run(*words, space, *resume)
        assert failed.returncode == 2, failed.stderr
        assert failed.stderr.splitlines()[-1].startswith("tuning: 1 of 1 trials failed: ")
        [trial] = workspace.trial_files("again")
        assert (trial["state"], trial["retries"]) == ("failed", retries) and trial["cause"]
    in_the_way.unlink()
    unchanged = workspace.run(*words, space)
    assert unchanged.returncode == 2 and "--resume" in unchanged.stderr
    workspace.sweep("again", *words[3:], space, "--resume")
    [trial] = workspace.trial_files("again")
    assert (trial["state"], trial["retries"], trial["cause"]) == ("finished", 2, "")


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_asha_matches_random_search_with_half_the_epochs(workspace):
    words = (
        "tune.trials=9", "tune.concurrent=1", "tune.grace_epochs=1", "tune.reduction=3",
        "train.max_epochs=9", "train.patience=9",
        "tune.space={optim.lr={loguniform=[1e-4,1e-1]}}",
    )  # fmt: skip
    workspace.sweep("random", *words)
    workspace.sweep("halved", *words, "tune.scheduler=asha")
    every, halved = workspace.trials("random"), workspace.trials("halved")
    assert [t["optim.lr"] for t in halved] == [t["optim.lr"] for t in every]
    assert sum(t["epochs"] for t in halved) <= sum(t["epochs"] for t in every) / 2
    values = sorted(t["ndcg@10"] for t in every)
    finished = [t["ndcg@10"] for t in halved if t["state"] == "finished"]
    assert max(finished) >= values[-2]  # the best or the second best


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_eight_trials_of_one_worker_finish_in_parallel(workspace):
    share = f"train.cpus_per_worker={0.45 * CPUS:g}"
    space = "tune.space={model.num_centers={grid=[2,4,6,8]},model.num_neighbors={grid=[0,5]}}"
    workspace.sweep("eight", "tune.searcher=grid", space, "train.max_epochs=1", share)
    trials = workspace.trials("eight")
    assert [t["state"] for t in trials] == ["finished"] * 8
    assert [t["built"] for t in trials] == [[]] * 8
    before = {p: p.stat().st_mtime_ns for p in (workspace.folder / "root/dataset").rglob("*.json")}
    assert sum("centers/image" in str(path) for path in before) == 4


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_trials_that_fill_the_machine_run_one_by_one_and_larger_trials_are_refused(workspace):
    share = f"train.cpus_per_worker={0.45 * CPUS:g}"
    words = ("tune.trials=2", "tune.space={optim.lr={loguniform=[1e-3,1e-2]}}", share)
    process = workspace.start(
        "tuning", workspace.config, "name=pairs", "train.num_workers=2", *words
    )
    at_once = 0
    while process.poll() is None:
        running = [r for r in workspace.trial_files("pairs") if r["state"] == "running"]
        at_once = max(at_once, len(running))
        time.sleep(0.5)
    _, error = process.communicate()
    assert process.returncode == 0, error
    assert at_once == 1
    assert [t["state"] for t in workspace.trials("pairs")] == ["finished"] * 2
    began = time.monotonic()
    refused = workspace.run("tuning", workspace.config, "name=large", "train.num_workers=3", *words)
    assert refused.returncode == 2
    last = refused.stderr.splitlines()[-1]
    assert last.startswith("tuning: a trial needs 3 workers of") and f"{CPUS:g} CPUs" in last
    assert time.monotonic() - began < 120
    assert not (workspace.folder / "root/sweeps/large/trials").exists()


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_graph_that_two_trials_need_at_once_is_built_once(workspace):
    words = ("tune.trials=2", "tune.space={model.num_neighbors={choice=[3,5]}}")
    overrides = [*words, "model.mu.image=0.37"]
    code = (
        "import ray\n"
        "from mdsrec.config.loading import load_experiment\n"
        "from tuning.builder import start_table_builder\n"
        "ray.init('local', include_dashboard=False)\n"
        f"config, overrides = {workspace.config!r}, {overrides!r}\n"
        "builder, experiment = start_table_builder(), load_experiment(config, overrides)\n"
        "requests = [builder.build.remote(config, overrides, experiment) for _ in range(2)]\n"
        "print(ray.get(requests))\n"
    )
    done = workspace.run("etl", workspace.config)
    assert done.returncode == 0, done.stderr
    (workspace.folder / "build_twice.py").write_text(code)
    output = subprocess.run(
        [sys.executable, "build_twice.py"],
        cwd=workspace.folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert output.splitlines()[-1] == "[['neighbors/image/mu=0.37'], []]"


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_tables_of_each_listed_mu_are_built_once_before_the_trials(workspace):
    space = "tune.space={model.mu.image={grid=[0.11,0.22,0.33]},model.num_neighbors={grid=[0,5]}}"
    workspace.sweep("mus", "tune.searcher=grid", space, "train.max_epochs=1")
    assert [t["built"] for t in workspace.trials("mus")] == [[]] * 6
    for mu in ("0.11", "0.22", "0.33"):
        folder = workspace.folder / f"root/dataset/neighbors/image/mu={mu}"
        assert len([path for path in folder.iterdir() if path.is_dir()]) == 1
    workspace.sweep("drawn", "tune.trials=2", "tune.space={model.mu.image={uniform=[0.4,0.9]}}")
    built = [t["built"] for t in workspace.trials("drawn")]
    values = [t["model.mu.image"] for t in workspace.trials("drawn")]
    assert built == [[f"neighbors/image/mu={value:g}"] for value in values]
