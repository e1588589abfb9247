"""`python -m cluster run` runs the stages in order, as processes, until one fails."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from raw_catalogue import small_toml, write_raw

from cluster.__main__ import main
from mdsrec.config.loading import load_experiment
from mdsrec.errors import InputError
from mdsrec.files import write_json
from mdsrec.run_paths import RunPaths

ROOT = Path(__file__).parent.parent

TOML = 'name = "a"\nroot = "ROOT"\n[input]\nedition = "2018"\nreviews = ["reviews.json"]\n'


EPOCH = {"ndcg@10": 0.1, "recall@10": 0.1}


class FakeStages:
    """Replacement for the processes: records commands and returns the given exit codes."""

    def __init__(self, finishes=True, **codes):
        self.codes = codes
        self.finishes = finishes
        self.started = []

    def run(self, command):
        self.started.append(command)
        if command[2] == "training":
            experiment = load_experiment(command[-2], command[-1:])
            history = {"epochs": [EPOCH], "best_epoch": 0, "num_parameters": 1}
            history_file = RunPaths.of(experiment).history
            write_json(history_file, {**history, "finished": self.finishes})
        return self.codes.get(command[2], 0)


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text(TOML.replace("ROOT", str(tmp_path / "data")))
    return str(path)


def run_with_fake_stages(monkeypatch, words, **behavior):
    """Return the commands that were started, and the exit code."""
    stages = FakeStages(**behavior)
    monkeypatch.setattr("cluster.run.run_process", stages.run)
    try:
        main(words)
    except SystemExit as ended:
        return stages.started, ended.code
    return stages.started, 0


def test_every_stage_gets_the_same_configuration(monkeypatch, config, capsys):
    started, code = run_with_fake_stages(monkeypatch, ["run", config, "name=b"])
    assert started == [
        [sys.executable, "-m", stage, config, "name=b"]
        for stage in ("etl", "training", "evaluation")
    ]
    assert code == 0
    last = capsys.readouterr().out.splitlines()[-2:]
    assert last[0] == "etl 0 s, training 0 s, evaluation 0 s"
    assert last[1].endswith("/data/runs/b/report.html")


def test_a_training_that_was_stopped_is_not_evaluated(monkeypatch, config, capsys):
    started, code = run_with_fake_stages(monkeypatch, ["run", config, "name=b"], finishes=False)
    assert [command[2] for command in started] == ["etl", "training"]
    assert code == 0
    assert "run the same command again to continue" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words", [["--fresh", "CONFIG", "name=b"], ["CONFIG", "--fresh", "name=b"]]
)
def test_fresh_is_passed_only_to_training(monkeypatch, config, words):
    words = [config if word == "CONFIG" else word for word in words]
    started, _ = run_with_fake_stages(monkeypatch, ["run", *words])
    assert [("--fresh" in command) for command in started] == [False, True, False]
    assert all(command[-2:] == [config, "name=b"] for command in started)


@pytest.mark.parametrize(("returned", "exit_code"), [(3, 3), (-9, 128 + 9)])
def test_the_first_failed_stage_ends_the_run(monkeypatch, config, capsys, returned, exit_code):
    started, code = run_with_fake_stages(monkeypatch, ["run", config, "name=b"], training=returned)
    assert [command[2] for command in started] == ["etl", "training"]
    assert code == exit_code
    assert f"training failed with exit code {exit_code}" in capsys.readouterr().out


def test_sigterm_reaches_the_stage():
    sleeper = "import time; print('up', flush=True); time.sleep(60)"
    stage = f"[sys.executable, '-c', {sleeper!r}]"
    runner = f"import sys; from cluster.run import run_process; run_process({stage})"
    with subprocess.Popen(
        [sys.executable, "-c", runner], cwd=ROOT, stdout=subprocess.PIPE
    ) as started:
        assert started.stdout is not None and started.stdout.readline() == b"up\n"
        started.terminate()
        assert started.wait(timeout=20) == 0  # both have ended, long before the sleep
        assert started.stdout.read() == b""


def test_no_stage_starts_with_a_mistake_in_the_configuration(monkeypatch, config):
    stages = FakeStages()
    monkeypatch.setattr("cluster.run.run_process", stages.run)
    with pytest.raises(InputError, match="unknown key modle"):
        main(["run", config, "modle.dim=3"])
    assert stages.started == []


def test_no_stage_starts_without_the_folder_of_pictures(monkeypatch, config, tmp_path):
    words = ["run", config, f"eval.pictures={tmp_path}/photos"]
    with pytest.raises(InputError, match=r"eval\.pictures = .*/photos: no such folder"):
        run_with_fake_stages(monkeypatch, words)
    started, _ = run_with_fake_stages(monkeypatch, [*words, "--stages", "etl"])
    assert [command[2] for command in started] == ["etl"]
    (tmp_path / "photos").mkdir()
    started, code = run_with_fake_stages(monkeypatch, words)
    assert ([command[2] for command in started], code) == (["etl", "training", "evaluation"], 0)


@pytest.mark.slow
@pytest.mark.spark
@pytest.mark.ray
def test_all_stages_from_raw_files_to_the_report(tmp_path):
    """Also: the evaluation's validation metrics equal those of training's best epoch."""
    write_raw(tmp_path)
    small_toml(tmp_path, "[train]\nmax_epochs = 2\n")
    shown = subprocess.run(
        [sys.executable, "-m", "cluster", "run", "small.toml"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    run = tmp_path / "root" / "runs" / "small"
    assert shown.splitlines()[-1] == f"report: {run}/report.html"
    history = json.loads((run / "history.json").read_text())
    best = history["epochs"][history["best_epoch"]]
    found = json.loads((run / "metrics.json").read_text())["split"]["valid"]["all"]
    assert found["ndcg@10"] == pytest.approx(best["ndcg@10"], abs=1e-4)
    assert found["recall@10"] == pytest.approx(best["recall@10"], abs=1e-4)
    assert (run / "report.html").stat().st_size > 10_000
