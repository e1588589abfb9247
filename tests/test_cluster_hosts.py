"""Jobs submitted from outside to a Ray cluster of three hosts.

The log is live, the exit code is the stage's, and the metrics equal those of one machine. Each
failure of a host or a job is one line.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hosts import ROOT, Host, needs_hosts
from raw_catalogue import small_toml, write_raw
from ray_hosts import ADDRESS, ray_hosts, start_worker

from mdsrec.packages import copy_packages

pytestmark = [pytest.mark.slow, pytest.mark.ray, needs_hosts, pytest.mark.timeout(900)]

SITE = Path(pytest.__file__).parent.parent
MISSING = "raise ModuleNotFoundError(\"No module named 'faiss'\")"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hosts")
    write_raw(folder)
    small_toml(folder, "[train]\nmax_epochs = 2\nnum_workers = 2\n")
    return folder


@pytest.fixture(scope="module")
def cluster(folder: Path) -> Iterator[list[Host]]:
    with ray_hosts(2, folder) as created:
        yield created


def submit_command(folder: Path, *words: str) -> list[str]:
    config = str(folder / "small.toml")
    return ["python", "-m", "cluster", "submit", config, "--address", ADDRESS, *words]


def test_all_stages_as_a_job_give_the_metrics_of_one_machine(
    folder: Path, cluster: list[Host]
) -> None:
    *_, outside = cluster
    run = folder / "root" / "runs" / "small"
    with outside.start(*submit_command(folder)) as job:
        assert job.stdout is not None
        log = []
        for line in job.stdout:
            log.append(line)
            if line == "--- evaluation\n":  # the log is shown while the job runs
                assert job.poll() is None and not (run / "metrics.json").exists()
    assert job.returncode == 0, "".join(log)
    assert log[-1] == f"report: {run}/report.html\n"
    assert (run / "report.html").stat().st_size > 10_000
    assert json.loads((run / "history.json").read_text())["num_workers"] == 2

    here = [sys.executable, "-m", "cluster", "run", str(folder / "small.toml"), "name=here"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(here, cwd=ROOT, check=True, capture_output=True, env=environment)
    assert metrics(run) == pytest.approx(metrics(run.parent / "here"), abs=1e-4)

    plain = ["--working-dir", ".", "--", "python", "-m", "training", str(folder / "small.toml")]
    output = outside.check_output("ray", "job", "submit", "--address", ADDRESS, *plain)
    assert f"{run}  (trained before)" in output


def metrics(run: Path) -> dict[str, float]:
    found: dict[str, float] = json.loads((run / "metrics.json").read_text())["split"]["test"]["all"]
    return found


def test_the_last_line_of_a_failed_job_is_its_cause(folder: Path, cluster: list[Host]) -> None:
    *_, outside = cluster
    code, output = outside.run(*submit_command(folder, "modle.dim=3"))
    assert (code, output) == (
        2,
        f"cluster: {folder}/small.toml: unknown key modle; the nearest key is model\n",
    )

    lost = f"input.reviews=['{folder}/lost.json']"
    code, output = outside.run(*submit_command(folder, lost, f"root={folder}/other"), seconds=300)
    assert code == 2
    assert output.rstrip().endswith(f"exit code 2: etl: {folder}/lost.json: no such file or folder")

    copy_packages(folder / "changed")
    with (folder / "changed" / "evaluation" / "run.py").open("a") as module:
        module.write("import no_such_module\n")
    words = submit_command(folder, "--stages", "evaluation")
    code, output = outside.run(*words, seconds=300, folder=folder / "changed")
    assert code == 1
    assert output.rstrip().endswith("code 1: ModuleNotFoundError: No module named 'no_such_module'")


def test_another_token_is_refused_in_one_line(folder: Path, cluster: list[Host]) -> None:
    *_, outside = cluster
    other = folder / "other-token"
    other.write_text("0" * 64)
    other.chmod(0o600)
    words = [f"RAY_AUTH_TOKEN_PATH={other}", *submit_command(folder)]
    code, output = outside.run("env", *words)
    assert code == 2 and len(output.splitlines()) == 1
    assert output.startswith(f"cluster: {ADDRESS}: Authentication failed: ")
    assert "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH" in output
    preflight = ["python", "-m", "cluster", "preflight", str(folder / "small.toml")]
    words = [f"RAY_AUTH_TOKEN_PATH={other}", "RAY_ADDRESS=10.77.0.1:6379", *preflight]
    code, output = outside.run("env", *words)
    assert code == 2
    assert output.splitlines()[-1].startswith("cluster: RAY_ADDRESS = 10.77.0.1:6379: ")
    assert "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH" in output.splitlines()[-1]


def test_the_preflight_reports_each_failure_of_a_host(folder: Path, cluster: list[Host]) -> None:
    """Another torch, a root that is not shared, a read-only root, a missing package."""
    _, first, second, outside = cluster
    root = folder / "root"
    root.mkdir(exist_ok=True)
    version = (SITE / "torch" / "version.py").read_text()
    (folder / "version.py").write_text(f"{version}\n__version__ = '2.12.0'\n")
    (folder / "faiss.py").write_text(MISSING)
    first.check_output(
        "mount", "--bind", str(folder / "version.py"), str(SITE / "torch" / "version.py")
    )
    first.check_output("mount", "-t", "tmpfs", "none", str(root))
    second.check_output(
        "mount", "--bind", str(folder / "faiss.py"), str(SITE / "faiss" / "__init__.py")
    )
    second.check_output("mount", "--bind", str(root), str(root))
    second.check_output("mount", "-o", "remount,bind,ro", str(root))
    code, output = outside.run(*submit_command(folder, "train.num_workers=3"), seconds=400)
    failures = [line for line in output.splitlines() if line.startswith("preflight: ")]
    beginnings = [
        f"{first.name} ({first.address}): torch 2.12.0, the driver has ",
        f"{first.name} ({first.address}): root {root} does not contain the file that the driver ",
        f"{second.name} ({second.address}): faiss cannot be imported (ModuleNotFoundError: ",
        f"{second.name} ({second.address}): root {root} cannot be used: ",
        "train.num_workers = 3 of 0.9 CPUs each, the cluster of 3 nodes and 2 CPUs holds 2",
    ]
    assert code == 2 and len(failures) == len(beginnings), output
    for line, beginning in zip(failures, beginnings, strict=True):
        assert line.startswith(f"preflight: {beginning}")
    assert "--- etl" not in output

    for host in (first, second):  # undoes the mounts
        host.power_off()
        host.power_on()
        start_worker(host, gpus=1 if host is first else 0)
    code, output = outside.run(*submit_command(folder, "train.device='gpu'"), seconds=400)
    failures = [line for line in output.splitlines() if line.startswith("preflight: ")]
    assert code == 2 and len(failures) == 3, output  # a remark among them
    assert failures[0].startswith("preflight: slow: node2 (10.77.0.2): faiss sees no GPU: ")
    assert failures[1].startswith(
        "preflight: node2 (10.77.0.2): offers 1 GPUs to Ray, torch sees 0: "
    )
    assert failures[2].startswith("preflight: train.num_workers = 2: the cluster has 1 GPUs")
