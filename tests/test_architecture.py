"""The arrows between the folders, and what a help text costs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ARROWS = {
    "mdsrec": set(),
    "etl": {"mdsrec"},
    "training": {"mdsrec"},
    "evaluation": {"mdsrec", "training"},
    "tuning": {"mdsrec", "training", "evaluation"},
    "cluster": {"mdsrec", "etl", "training", "tuning", "evaluation"},
}
HEAVY = ("torch", "ray", "pyspark", "deepspeed", "faiss", "sentence_transformers")
COMMANDS = {"cluster": ["run"]}  # of stages that have no other
STAGES = sorted(path.parent.name for path in ROOT.glob("*/__main__.py"))


def imported(path: Path) -> set[str]:
    """Top-level packages that a module imports, at its head or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            found.add((node.module or "").split(".")[0])
    return found


def loaded_by(program: str) -> set[str]:
    """Which heavy packages a new process has loaded after `program`."""
    listing = f"import sys\nprint(*sorted(set({HEAVY!r}) & set(sys.modules)))"
    ended = subprocess.run(
        [sys.executable, "-c", f"{program}\n{listing}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return set(ended.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("folder", ARROWS)
def test_imports_follow_the_arrows(folder):
    for path in (ROOT / folder).rglob("*.py"):
        others = (imported(path) & set(ARROWS)) - {folder}
        assert others <= ARROWS[folder], f"{path.relative_to(ROOT)} imports {others}"


@pytest.mark.parametrize("module", sorted(path.stem for path in (ROOT / "mdsrec").glob("*.py")))
def test_the_kernel_loads_nothing_heavy(module):
    name = "mdsrec" if module == "__init__" else f"mdsrec.{module}"
    assert loaded_by(f"import {name}") == set()


HELP = """
import runpy, sys
sys.argv = [{stage!r}, *{words!r}]
try:
    runpy.run_module({stage!r}, run_name="__main__")
except SystemExit as ended:
    assert not ended.code, ended.code
"""


@pytest.mark.parametrize("stage", STAGES)
def test_help_loads_nothing_heavy(stage):
    assert loaded_by(HELP.format(stage=stage, words=["--help"])) == set()


@pytest.mark.parametrize(
    ("stage", "words"),
    [
        ("cluster", ["run"]),
        ("etl", ["status"]),
        ("evaluation", ["compare"]),
        ("tuning", ["study"]),
    ],
)
def test_the_help_of_a_command_loads_nothing_heavy(stage, words):
    assert loaded_by(HELP.format(stage=stage, words=[*words, "--help"])) == set()


@pytest.mark.parametrize("stage", STAGES)
def test_a_missing_configuration_is_one_line_and_exit_code_two(stage):
    words = [*COMMANDS.get(stage, []), "none.toml"]
    ended = subprocess.run(
        [sys.executable, "-m", stage, *words], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 2
    assert ended.stderr == f"{stage}: none.toml: no such configuration file\n"
