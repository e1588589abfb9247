"""The wheel in an environment of its own, used from a folder that has an etl/ and a training/."""

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

import mdsrec
from mdsrec.__main__ import main
from mdsrec.command.names import SUB_COMMANDS, process_of, spelled
from mdsrec.packages import search_path

ROOT = Path(__file__).parent.parent
PACKAGES = ("etl", "training", "evaluation", "tuning", "cluster")


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Return the folder of the programs of a new environment that holds our wheel.

    The packages that we depend on are those of this environment. A folder in a .pth file is only
    searched, so an editable install in it has no effect.
    """
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "copy"
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    files = subprocess.run(listed, cwd=ROOT, capture_output=True, check=True).stdout
    copied = ["xargs", "-0", "cp", "--parents", "--no-dereference", "--target-directory", copy]
    copy.mkdir()
    subprocess.run(copied, cwd=ROOT, input=files, check=False)  # some may have been deleted
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, copy]
    subprocess.run([*pip, *build], env=without_our_paths(), check=True)
    [wheel] = folder.glob("*.whl")
    venv.create(folder / "venv", symlinks=True)
    install = ["--python", folder / "venv/bin/python", "install", "--no-deps", wheel]
    subprocess.run([*pip, *install], env=without_our_paths(), check=True)
    [packages] = folder.glob("venv/lib/*/site-packages")
    (packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "venv" / "bin"


@pytest.fixture
def decoys(tmp_path):
    """Return a folder with packages that have the names of ours and that fail when imported."""
    for name in PACKAGES:
        (tmp_path / name).mkdir()
        for file in ("__init__.py", "__main__.py", "run.py"):
            (tmp_path / name / file).write_text("raise SystemExit('a decoy was imported')\n")
    return tmp_path


def without_our_paths():
    """Return the environment without the variables that would let Python find this checkout.

    pip takes a package that PYTHONPATH finds for installed, and leaves a wheel of it out.
    """
    return {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONSAFEPATH")}


def run(program, *words, folder, **environment):
    """Run a program in `folder` -> exit code and everything it printed."""
    ended = subprocess.run(
        [program, *words],
        cwd=folder,
        env=without_our_paths() | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return ended.returncode, ended.stdout + ended.stderr


def test_the_installed_program_has_the_version_of_the_package(installed, decoys):
    shown = run(installed / "mdsrec", "--version", folder=decoys)
    assert shown == (0, f"mdsrec {mdsrec.__version__}\n")


@pytest.mark.parametrize("name", ["etl", "train"])
def test_no_folder_beside_the_user_is_taken_for_our_package(installed, decoys, name):
    words = [installed / "mdsrec", name, "none.toml"]
    error = (2, "mdsrec: none.toml: no such configuration file\n")
    assert run(*words, folder=decoys) == run(*words, folder=decoys, PYTHONPATH=":") == error


def test_the_wheel_brings_the_configurations_and_the_cluster_files(installed, tmp_path):
    code, shown = run(installed / "mdsrec", "files", folder=tmp_path)
    wanted = {f"configs/{path.name}" for path in ROOT.glob("configs/*.toml")}
    listed = subprocess.check_output(["git", "ls-files", "cluster"], cwd=ROOT, text=True)
    wanted |= {file for file in listed.splitlines() if not file.endswith(".py")}
    assert code == 0 and wanted <= set(shown.splitlines())
    run(installed / "mdsrec", "files", "configs", folder=tmp_path)
    copied = (tmp_path / "configs/demo.toml").read_text()
    assert copied == (ROOT / "configs/demo.toml").read_text()


def test_a_file_of_the_user_is_not_overwritten(installed, tmp_path):
    own = tmp_path / "configs" / "demo.toml"
    own.parent.mkdir()
    own.write_text("mine")
    _, shown = run(installed / "mdsrec", "files", "configs", folder=tmp_path)
    assert own.read_text() == "mine"
    assert "kept   configs/demo.toml" in shown.splitlines()


def test_a_process_of_a_stage_is_spelled_as_its_parent(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/usr/bin/mdsrec", "run", "a.toml"])
    assert spelled("training") == ["mdsrec", "train"]
    assert process_of("evaluation compare") == [sys.executable, "-m", "mdsrec", "compare"]
    monkeypatch.setattr(sys, "argv", ["/src/mdsrec/training/__main__.py", "a.toml"])
    assert spelled("training") == ["python", "-m", "training"]
    assert process_of("etl") == [sys.executable, "-m", "etl"]


def test_the_current_folder_leaves_the_search_path_of_children(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    others = [str(tmp_path / "lib"), "/opt/lib"]
    ours = str(ROOT)
    assert search_path("") == search_path(".") == search_path(":") == [ours]
    assert search_path(f"lib:{tmp_path}::/opt/lib:{ours}") == [ours, *others]
    monkeypatch.setattr("mdsrec.packages.SOURCE", Path("/venv/lib/python3.11/site-packages"))
    assert search_path(".:lib:/opt/lib") == others  # behind the standard library


@pytest.mark.parametrize("name", SUB_COMMANDS)
def test_every_sub_command_is_a_command_of_a_stage(monkeypatch, capsys, name):
    monkeypatch.setattr(sys, "argv", ["/usr/bin/mdsrec", name])
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: mdsrec {name} ")


def test_the_help_lists_the_sub_commands_in_the_order_of_the_work(capsys):
    with pytest.raises(SystemExit):
        main([])
    listed = capsys.readouterr().out.partition("\nsub-commands")[2].splitlines()[1:]
    names = [line.split()[0] for line in listed]
    assert names == [*SUB_COMMANDS]
    assert names.index("etl") < names.index("train") < names.index("evaluate")


@pytest.mark.slow
@pytest.mark.spark
@pytest.mark.ray
@pytest.mark.timeout(1800)
def test_the_demo_runs_from_the_wheel(installed, decoys):
    """Spark's workers, Ray's workers and the process of each stage meet the decoys."""
    assert run(installed / "mdsrec", "demo", folder=decoys)[0] == 0
    short = ["configs/demo.toml", "train.max_epochs=2"]
    code, shown = run(installed / "mdsrec", "run", *short, folder=decoys)
    assert code == 0, shown
    assert (decoys / "artifacts/demo/runs/demo/report.html").stat().st_size > 10_000
    assert "next: mdsrec train configs/demo.toml train.max_epochs=2" in shown
    assert "next        mdsrec evaluate configs/demo.toml train.max_epochs=2" in shown
