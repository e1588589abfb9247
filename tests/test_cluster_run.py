"""`python -m cluster run` runs the stages in order until one fails."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from raw_catalogue import small_toml, write_raw

from cluster.__main__ import main
from cluster.run import run_here, run_process
from mdsrec.command.heartbeat import Heartbeat
from mdsrec.config.loading import load_experiment
from mdsrec.errors import InputError
from mdsrec.files import write_json
from mdsrec.run_paths import RunPaths

ROOT = Path(__file__).parent.parent

TOML = 'name = "a"\nroot = "ROOT"\n[input]\nedition = "2018"\nreviews = ["reviews.json"]\n'


EPOCH = {"ndcg@10": 0.1, "recall@10": 0.1}


class FakeStages:
    """Replacement for the stages: records their words and returns the given exit codes."""

    def __init__(self, finishes=True, **codes):
        self.codes = codes
        self.finishes = finishes
        self.started = []
        self.keeps_ray = {}  # of the stages in this process
        self.imported = {}  # while a stage runs

    def install(self, monkeypatch):
        monkeypatch.setattr("cluster.run.run_process", self.run_process)
        monkeypatch.setattr("cluster.run.run_here", self.run_here)

    def run_process(self, command, imports):
        self.imported[command[2]] = [*imports]
        assert command[:2] == [sys.executable, "-m"]
        return self.start(command[2], command[3:])

    def run_here(self, stage, words, keeps_ray):
        self.keeps_ray[stage] = keeps_ray
        return self.start(stage, words)

    def start(self, stage, words):
        self.started.append([stage, *words])
        if stage == "training":
            experiment = load_experiment(words[-2], words[-1:])
            history = {"epochs": [EPOCH], "best_epoch": 0, "num_parameters": 1}
            history_file = RunPaths.of(experiment).history
            write_json(history_file, {**history, "finished": self.finishes})
        return self.codes.get(stage, 0)


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text(TOML.replace("ROOT", str(tmp_path / "data")))
    return str(path)


def run_with_fake_stages(monkeypatch, words, **behavior):
    """Return the stages that were started, with their words, and the exit code."""
    stages = FakeStages(**behavior)
    stages.install(monkeypatch)
    try:
        main(words)
    except SystemExit as ended:
        return stages.started, ended.code
    return stages.started, 0


def test_every_stage_gets_the_same_configuration(monkeypatch, config, capsys):
    started, code = run_with_fake_stages(monkeypatch, ["run", config, "name=b"])
    assert started == [[stage, config, "name=b"] for stage in ("etl", "training", "evaluation")]
    assert code == 0
    last = capsys.readouterr().out.splitlines()[-2:]
    assert last[0] == "etl 0 s, training 0 s, evaluation 0 s"
    assert last[1].endswith("/data/runs/b/report.html")


def test_a_training_that_was_stopped_is_not_evaluated(monkeypatch, config, capsys):
    started, code = run_with_fake_stages(monkeypatch, ["run", config, "name=b"], finishes=False)
    assert [stage for stage, *_ in started] == ["etl", "training"]
    assert code == 0
    assert "run the same command again to continue" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("chosen", "keeps_ray"),
    [
        (["etl", "training", "evaluation"], {"training": True, "evaluation": False}),
        (["etl", "training"], {"training": False}),
        (["evaluation"], {"evaluation": False}),
    ],
)
def test_a_training_leaves_its_ray_to_an_evaluation(monkeypatch, config, chosen, keeps_ray):
    stages = FakeStages()
    stages.install(monkeypatch)
    main(["run", config, "name=b", "--stages", *chosen])
    assert [stage for stage, *_ in stages.started] == chosen
    assert stages.keeps_ray == keeps_ray


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
    assert [stage for stage, *_ in started] == ["etl", "training"]
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


def test_the_modules_of_later_stages_are_imported_while_a_stage_runs(tmp_path, monkeypatch):
    (tmp_path / "later_stage.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w').close()")
    monkeypatch.syspath_prepend(tmp_path)
    waits = (
        "import pathlib, sys, time\n"
        "for _ in range(300):\n"
        "    if pathlib.Path(sys.argv[1]).exists(): sys.exit(7)\n"
        "    time.sleep(0.1)\n"
    )
    command = [sys.executable, "-c", waits, str(tmp_path / "imported")]
    assert run_process(command, imports=["no_such_module", "later_stage"]) == 7


@pytest.mark.parametrize(
    ("stages", "imported"),
    [
        (["etl", "training", "evaluation"], ["training.run", "evaluation.run"]),
        (["etl", "evaluation"], ["evaluation.run"]),
        (["etl"], []),
    ],
)
def test_only_modules_of_stages_to_come_are_imported(monkeypatch, config, stages, imported):
    fake = FakeStages()
    fake.install(monkeypatch)
    main(["run", config, "name=b", "--stages", *stages])
    assert fake.imported == {"etl": imported}


def test_no_stage_starts_with_a_mistake_in_the_configuration(monkeypatch, config):
    stages = FakeStages()
    stages.install(monkeypatch)
    with pytest.raises(InputError, match="unknown key modle"):
        main(["run", config, "modle.dim=3"])
    assert stages.started == []


def test_no_stage_starts_without_the_folder_of_pictures(monkeypatch, config, tmp_path):
    words = ["run", config, f"eval.pictures={tmp_path}/photos"]
    with pytest.raises(InputError, match=r"eval\.pictures = .*/photos: no such folder"):
        run_with_fake_stages(monkeypatch, words)
    started, _ = run_with_fake_stages(monkeypatch, [*words, "--stages", "etl"])
    assert [stage for stage, *_ in started] == ["etl"]
    (tmp_path / "photos").mkdir()
    started, code = run_with_fake_stages(monkeypatch, words)
    assert ([stage for stage, *_ in started], code) == (["etl", "training", "evaluation"], 0)


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


def run_body(monkeypatch, body):
    """Return the exit code of a stage whose `main` is `body`."""
    monkeypatch.setattr("evaluation.__main__.main", body)
    return run_here("evaluation", ["CONFIG"], keeps_ray=False)


def test_a_stage_in_this_process_ends_as_a_process_of_its_own_would(monkeypatch, capsys):
    def refuse(words):
        raise InputError(f"{words}: no such file")

    def stop(words):
        raise SystemExit(128 + signal.SIGTERM)

    assert run_body(monkeypatch, lambda words: None) == 0
    assert run_body(monkeypatch, refuse) == 2
    assert capsys.readouterr().err == "evaluation: ['CONFIG']: no such file\n"
    assert run_body(monkeypatch, stop) == 143
    assert "evaluation: terminated" in capsys.readouterr().err


def test_the_heartbeat_goes_on_after_a_stage_in_this_process(monkeypatch, caplog):
    beats = Heartbeat(seconds=0.1)
    with caplog.at_level("INFO", "mdsrec"), beats.beating("cluster"):
        with beats.beating("training"):
            beats.begin("work")
            time.sleep(0.3)
        caplog.clear()
        time.sleep(0.3)
    assert "cluster is still running" in caplog.text


RAY_OF_TWO = """
import os
import ray
from training.distributed.ray_session import keeping_ray, ray_session

def address():
    assert "RAY_ADDRESS" in os.environ
    return ray.get_runtime_context().gcs_address

with keeping_ray():
    with ray_session():
        first = address()
    assert ray.is_initialized() and "RAY_ADDRESS" not in os.environ
with ray_session(), ray_session():
    assert address() == first
assert not ray.is_initialized()
with keeping_ray():
    try:
        with ray_session():
            raise ValueError
    except ValueError:
        assert not ray.is_initialized()
print("as expected")
"""


@pytest.mark.slow
@pytest.mark.ray
def test_a_session_leaves_its_ray_to_the_next_one_unless_it_fails():
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("RAY_ADDRESS", None)
    command = [sys.executable, "-c", RAY_OF_TWO]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert ended.stdout == "as expected\n", ended.stderr
