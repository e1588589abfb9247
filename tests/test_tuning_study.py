"""The runs of a study differ only in model and seed, and its table summarizes them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from evaluated_runs import run_metrics
from raw_catalogue import small_toml, write_raw

from evaluation.metrics.events import Ranking
from mdsrec import files, schema, tables
from mdsrec.config.loading import load_experiment
from mdsrec.config.models import sections
from mdsrec.errors import InputError
from mdsrec.tables import Recipe
from tuning.stages import BatchResult, RunSpec
from tuning.study import model_overrides, run_study, study_runs, study_table

ROOT = Path(__file__).parent.parent
MORE = """temperature = 0.1
[optim]
lr = 0.002
[train]
max_epochs = 2
[study.sasrec]
model.dropout = 0.25
optim.lr = 1e-3
"""


@pytest.fixture
def config(tmp_path: Path) -> str:
    return small_toml(tmp_path, MORE)


def runs(
    config: str, *models: str, seeds: int = 1, overrides: tuple[str, ...] = ()
) -> list[RunSpec]:
    experiment = load_experiment(config, overrides)
    return list(study_runs(experiment, config, list(overrides), models, seeds))


def test_a_study_has_every_model_at_every_seed(config):
    found = [(run.label, run.experiment.model.name, run.experiment.seed) for run in runs(config)]
    assert found == [(name, name, 0) for name in sections()]
    found = [run.experiment.name for run in runs(config, "sasrec", "mdsrec", seeds=2)]
    assert found == ["small-sasrec-0", "small-mdsrec-0", "small-sasrec-1", "small-mdsrec-1"]


def test_other_models_take_over_the_shape_and_have_their_own_defaults(config):
    [sasrec, gru, mdsrec] = [
        run.experiment
        for run in runs(config, "sasrec", "gru4rec", "mdsrec", overrides=("model.dim=8",))
    ]
    assert (sasrec.model.dim, sasrec.model.inner_dim, sasrec.model.temperature) == (8, 16, 0.0)
    assert gru.model.dim == 8
    assert (mdsrec.model.temperature, mdsrec.model.num_centers) == (0.1, 4)
    assert gru.optim == mdsrec.optim and gru.train == mdsrec.train == sasrec.train


def test_a_section_of_the_study_applies_only_to_its_model(config):
    [sasrec, gru] = [run.experiment for run in runs(config, "sasrec", "gru4rec")]
    assert (sasrec.model.dropout, sasrec.optim.lr) == (0.25, 0.001)
    assert (gru.model.dropout, gru.optim.lr) == (0.5, 0.002)
    assert model_overrides(load_experiment(config), "mdsrec") == []


def test_the_sections_of_a_study_are_not_part_of_a_run_s_identity(config):
    without = load_experiment(config, ["study={}"])
    assert without.identity() == load_experiment(config).identity()


def test_an_unknown_model_is_reported(config):
    with pytest.raises(InputError, match=r"unknown model 'sasrek'; choose from \[mdsrec, sasrec"):
        runs(config, "sasrek")
    with pytest.raises(InputError, match="unknown model 'gru'"):
        runs(config, "sasrec", overrides=("study.gru.optim.lr=1e-3",))


def write_run(
    run: RunSpec,
    better: list[int],
    best_epoch: int = 0,
    network: Sequence[int] = (),
    parameters: int = 4321,
) -> None:
    """Write the results of a run.

    `better` is the number of items ranked above each target, `network` that without the memory.
    """
    count = len(better)
    ranked = {"all": better, "network": network, "popularity": [5] * count}
    rows = [
        (user, 0, "test", channel, value, 0, value + 1.0)
        for channel, values in ranked.items()
        for user, value in enumerate(values)
    ]
    columns = list(zip(*rows, strict=True))
    table = pa.table(list(map(pa.array, columns)), names=schema.RANKS.names).cast(schema.RANKS)
    version = tables.new_version(f"{run.paths.uri}/ranks")
    Path(version).mkdir(parents=True)
    pq.write_table(table, f"{version}/part-00000.parquet")
    tables.commit(f"{run.paths.uri}/ranks", version, Recipe({}, {}), table.num_rows)
    settings = run.experiment.eval
    run_metrics(
        run.experiment.name, cutoffs=list(settings.cutoffs), exclude_seen=settings.exclude_seen
    ).write(run.paths.metrics)
    metrics = {"ndcg@10": 0.1, "recall@10": 0.1, "seconds": 2.0}
    epochs = [{**metrics, "prefixes_per_second": pace} for pace in (100.0, 300.0)]
    history = {"epochs": epochs, "best_epoch": best_epoch, "num_parameters": parameters}
    files.write_json(f"{run.paths.uri}/history.json", history)


def test_the_table_has_means_over_the_runs_and_their_cost(config):
    """Two seeds of sasrec rank 2 and 4 of 8 targets in their top ten; mdsrec ranks all there."""
    finished = runs(config, "sasrec", "mdsrec", seeds=2, overrides=("eval.cutoffs=[10]",))
    for run, hits in zip(finished, (2, 8, 4, 8), strict=True):
        write_run(run, [0] * hits + [99] * (8 - hits), best_epoch=run.experiment.seed)
    baselines = {"popularity": Ranking(finished[0].paths.uri, "popularity")}
    table = study_table(finished[0].experiment, finished, baselines)
    header, _, popularity, sasrec, mdsrec = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()
    ]
    assert header[:3] == ["model (seeds)", "recall@10", "ndcg@10"]
    assert popularity[:2] == ["popularity", "1.0000 [1.0000, 1.0000]"]
    assert popularity[2].startswith(f"{1 / np.log2(7):.4f}")
    assert sasrec[0] == "sasrec (2)" and sasrec[1].startswith(f"{(2 + 4) / 16:.4f} [")
    assert sasrec[3].startswith(f"{6 / 16 - 1:+.4f} [") and mdsrec[3:5] == ["", ""]
    assert mdsrec[1] == "1.0000 [1.0000, 1.0000]"
    assert sasrec[-4:-1] == ["4,321", "200", "3"]  # the best epochs ended after 2 s and 4 s
    assert sasrec[-1] == "1 of 2, 2 of 2"


def test_a_model_with_a_memory_has_a_second_row_for_its_network(config):
    overrides = ("eval.cutoffs=[10]", "model.memory=true")
    finished = runs(config, "mdsrec", "transitions", overrides=overrides)
    write_run(finished[0], [0] * 8, network=[99] * 2 + [0] * 6)
    write_run(finished[1], [99] * 4 + [0] * 4, parameters=0)
    lines = study_table(finished[0].experiment, finished, {}).splitlines()[2:]
    mdsrec, network, transitions = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in lines
    ]
    assert [row[0] for row in (mdsrec, network, transitions)] == [
        "mdsrec (1)",
        "mdsrec without memory",
        "transitions (1)",
    ]
    assert network[1].startswith("0.7500 [") and network[3].startswith("-0.2500 [")
    assert transitions[3].startswith("-0.5000 [")
    assert transitions[-4:] == ["0", "", "", ""]


def test_a_study_with_failed_runs_is_an_error_that_names_the_cause(config, tmp_path, monkeypatch):
    monkeypatch.setattr("tuning.study.train_and_rank", lambda *_: BatchResult([], ["no room"], []))
    with pytest.raises(InputError, match=r"^1 of 2 runs failed: no room: .* same command again"):
        run_study(config, [], ["sasrec"], 2)
    assert not (tmp_path / "root/studies").exists()  # the table is not complete


@pytest.mark.parametrize("code", [1, 2], ids=["mistake of ours", "of the user"])
def test_what_a_mistake_of_ours_printed_is_there_to_report(config, monkeypatch, capfd, code):
    stage = f"import sys; print('Traceback: line 7\\nlast line', file=sys.stderr); sys.exit({code})"
    monkeypatch.setattr("tuning.stages.process_of", lambda _: [sys.executable, "-c", stage])
    with pytest.raises(InputError, match=r"^last line$"):
        runs(config, "sasrec")[0].run_stage("training")
    assert capfd.readouterr().err == ("Traceback: line 7\nlast line\n" if code == 1 else "")


STAGE = """
import signal, sys, time

def stop(*_):
    print("training: saved at epoch 3", file=sys.stderr)
    sys.exit(143)

signal.signal(signal.SIGTERM, stop)
open("up", "w").close()
time.sleep(60)
"""


def test_sigterm_reaches_the_running_stages_and_no_other_starts(config, tmp_path):
    (tmp_path / "etl.py").write_text("")
    (tmp_path / "training.py").write_text(STAGE)
    code = (
        "import sys\n"
        "from tuning import stages\n"
        "from tuning.stages import RunSpec, train_and_rank\n"
        "stages.process_of = lambda stage: [sys.executable, f'{stage}.py']\n"
        f"runs = [RunSpec('any', {config!r}, [f'name=run-{{n}}']) for n in (1, 2)]\n"
        "train_and_rank(runs, 1)\n"
    )
    job = subprocess.Popen(
        [sys.executable, "-P", "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )
    while not (tmp_path / "up").exists():
        assert job.poll() is None
        time.sleep(0.05)
    job.terminate()
    error = job.communicate(timeout=20)[1]
    assert job.returncode == 128 + signal.SIGTERM and error == ""


@pytest.mark.slow
@pytest.mark.spark
@pytest.mark.ray
def test_a_study_from_raw_files_continues_where_it_was_stopped(config, tmp_path):
    def call(*words: str) -> str:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.run(
            [sys.executable, "-m", *words],
            cwd=tmp_path,
            env=environment,
            check=True,
            capture_output=True,
            text=True,
        ).stdout

    write_raw(tmp_path)
    words = ("tuning", "study", config, "--seeds", "1", "--models", "sasrec")
    assert "1 of 1 runs are left" in call(*words, "--minutes", "0.0001")
    first = call(*words)
    assert "| sasrec (1) |" in first and "| itemknn |" in first
    weights = tmp_path / "root/runs/small-sasrec-0/best.safetensors"
    before = weights.stat().st_mtime_ns
    assert call(*words) == first
    assert weights.stat().st_mtime_ns == before
    assert (tmp_path / "root/studies/small.md").read_text().rstrip() in first
