"""Which room may import which, and what a help text may load.

A room is a package (a folder), or a module that several rooms of its package build on.
"""

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("mdsrec", "etl", "training", "evaluation", "tuning", "cluster")
MOST_MODULES = 16  # in one room

BASE = {
    *("mdsrec", "mdsrec.config", "mdsrec.files", "mdsrec.credentials", "mdsrec.errors"),
    *("mdsrec.jobs", "mdsrec.digests", "mdsrec.schema", "mdsrec.parquet_groups", "mdsrec.tables"),
}
KERNEL = {*BASE, "mdsrec.command"}
ETL_STEPS = {
    *("etl.spark", "etl.catalogue", "etl.graph", "etl.transitions", "etl.places"),
    *("etl.features", "etl.tabular"),
}
DATA = {"training.data", "training.device"}
PARTS = {"training.layers", "training.losses"}
TRAINING = {"training", "training.lifecycle", "training.distributed", *PARTS, *DATA}
MODELS = {"training.models", "training.sharding"}
RANKING = {"evaluation.metrics", "evaluation.baselines", "evaluation.ranking"}
TRIALS = {"tuning.trials", "tuning.plan", "tuning.space"}

ROOMS: dict[str, set[str]] = {
    # the kernel
    "mdsrec.credentials": set(),
    "mdsrec.errors": {"mdsrec.credentials"},
    "mdsrec.digests": {"mdsrec.errors"},
    "mdsrec.files": {"mdsrec.errors", "mdsrec.digests"},
    "mdsrec.jobs": {"mdsrec.errors", "mdsrec.files", "mdsrec.digests"},
    "mdsrec.config": {"mdsrec.errors", "mdsrec.credentials", "mdsrec.digests"},
    "mdsrec.schema": set(),
    "mdsrec.parquet_groups": {"mdsrec.errors", "mdsrec.digests", "mdsrec.files"},
    "mdsrec.tables": {
        *("mdsrec.errors", "mdsrec.files", "mdsrec.jobs"),
        *("mdsrec.schema", "mdsrec.parquet_groups"),
    },
    "mdsrec": BASE,
    "mdsrec.command": BASE,
    "mdsrec.__main__": KERNEL,
    # raw files -> tables
    "etl.spark": KERNEL,
    "etl.catalogue": {*KERNEL, "etl.spark", "etl.catalogue.pages"},
    "etl.catalogue.pages": set(),
    "etl.graph": {*KERNEL, "etl.spark"},
    "etl.transitions": {*KERNEL, "etl.spark", "etl.graph"},
    "etl.places": {*KERNEL, "etl.spark", "etl.graph"},
    "etl.features": {*KERNEL, "etl.spark", "etl.catalogue", "etl.tabular"},
    "etl.tabular": {*KERNEL, "etl.spark", "etl.catalogue"},
    "etl.recipes": {*KERNEL, "etl.catalogue", "etl.features", "etl.tabular"},
    "etl.builders": {*KERNEL, *ETL_STEPS, "etl.recipes"},
    "etl.synthetic": KERNEL,
    "etl": {*KERNEL, "etl.spark", "etl.recipes", "etl.tabular", "etl.builders"},
    # tables -> weights
    "training.device": KERNEL,
    "training.data": {*KERNEL, "training.device"},
    "training.sharding": {*KERNEL, *DATA},
    "training.layers": {*KERNEL, *DATA, "training.sharding"},
    "training.losses": {*KERNEL, *DATA, "training.sharding"},
    "training.models": {*KERNEL, *DATA, "training.sharding", *PARTS},
    "training.models.mdsrec": {*KERNEL, *DATA, *MODELS, *PARTS},
    "training.lifecycle": KERNEL,
    "training.distributed": {*KERNEL, "training.device", "training.lifecycle", *MODELS},
    "training.checkpoints": {*KERNEL, "training.distributed", *MODELS},
    "training.warm": {*KERNEL, *DATA, *MODELS, "training.distributed", "training.checkpoints"},
    "training": {*KERNEL, *TRAINING, *MODELS, "training.checkpoints", "training.warm"},
    "training.own_share": {*KERNEL, *TRAINING, *MODELS, "training.checkpoints"},
    # weights -> ranks
    "evaluation.stored": KERNEL,
    "evaluation.metrics": {*KERNEL, "evaluation.stored"},
    "evaluation.cases": KERNEL,
    "evaluation.evaluated_run": {*KERNEL, "evaluation.cases", "evaluation.metrics"},
    "evaluation.report": {
        *KERNEL,
        *("evaluation.metrics", "evaluation.cases", "evaluation.evaluated_run"),
    },
    "evaluation.baselines": {*KERNEL, *TRAINING, "evaluation.metrics", "evaluation.stored"},
    "evaluation.ranking": {*KERNEL, *TRAINING, "evaluation.metrics", "evaluation.baselines"},
    "evaluation.stored_weights": {*KERNEL, *TRAINING},
    "evaluation.serving": {
        *KERNEL,
        *TRAINING,
        *RANKING,
        *("evaluation.stored_weights", "evaluation.stored"),
        *("training.checkpoints", "training.warm"),
    },
    "evaluation.actors": {*KERNEL, *TRAINING, "training.own_share"},
    "evaluation": {
        *KERNEL,
        *TRAINING,
        *RANKING,
        *("evaluation.actors", "training.own_share"),
        *("evaluation.cases", "evaluation.evaluated_run", "evaluation.report"),
        *("evaluation.stored_weights", "evaluation.serving", "evaluation.stored"),
    },
    # many runs
    "tuning.trials": KERNEL,
    "tuning.space": KERNEL,
    "tuning.plan": {*KERNEL, "tuning.space"},
    "tuning.ray_tune": {*KERNEL, *TRAINING, *TRIALS},
    "tuning": {
        *KERNEL,
        *TRIALS,
        *("training", "training.lifecycle", "training.distributed"),
        *("evaluation", "evaluation.metrics", "evaluation.baselines"),
        "tuning.ray_tune",
    },
    "tuning.report": {
        *KERNEL,
        *TRIALS,
        *("evaluation.metrics", "evaluation.report"),
        "tuning",
    },
    "tuning.__main__": {*KERNEL, "tuning", "tuning.report"},
    # all stages, started as processes
    "cluster": {*KERNEL, "training.distributed"},
}

HEAVY = ("torch", "ray", "pyspark", "deepspeed", "faiss", "sentence_transformers")
COMMANDS = {"cluster": ["run"], "mdsrec": ["etl"]}  # sub-commands of stages that need one
STAGES = sorted(path.parent.name for path in ROOT.glob("*/__main__.py"))


def modules(root: Path) -> dict[str, Path]:
    """Return the file of every module of the packages, by dotted name."""
    found = {}
    for package in PACKAGES:
        for path in (root / package).rglob("*.py"):
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join(parts).removesuffix(".__init__")] = path
    return found


def imports(path: Path, known: dict[str, Path]) -> Iterator[str]:
    """Yield our modules that a file imports, at its head or inside a function."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            for alias in node.names:
                below = f"{node.module}.{alias.name}"
                if below in known:
                    yield below
                elif node.module in known:
                    yield node.module


def room_of(module: str, rooms: dict[str, set[str]]) -> str:
    """Return the room with the longest name that contains the module."""
    return max((r for r in rooms if f"{module}.".startswith(f"{r}.")), key=len)


def violations(root: Path, rooms: dict[str, set[str]]) -> list[str]:
    """Return every import that leaves its room for one that it may not import."""
    known, found = modules(root), []
    for module, path in known.items():
        room = room_of(module, rooms)
        for other in imports(path, known):
            target = room_of(other, rooms)
            if target != room and target not in rooms[room]:
                found.append(f"{module} imports {other}: {room} may not import {target}")
    return sorted(found)


def test_imports_stay_within_their_rooms():
    assert violations(ROOT, ROOMS) == []


def test_no_room_imports_itself_by_way_of_others():
    tuple(graphlib.TopologicalSorter({r: f - {r} for r, f in ROOMS.items()}).static_order())


def test_no_module_imports_itself_by_way_of_others():
    known = modules(ROOT)
    graph = {m: set(imports(path, known)) - {m} for m, path in known.items()}
    tuple(graphlib.TopologicalSorter(graph).static_order())


def test_every_folder_is_a_room():
    packages = {m for m, path in modules(ROOT).items() if path.name == "__init__.py"}
    assert packages <= set(ROOMS) | {"training.models"}


@pytest.mark.parametrize(
    ("module", "line", "message"),
    [
        ("etl/run.py", "import training.run", "etl.run imports training.run: etl may not"),
        ("training/data/batch.py", "from training import loop", "training.data may not"),
        ("training/layers/gru.py", "from training.models import base", "training.layers may not"),
        ("mdsrec/files.py", "from mdsrec.config import Experiment", "mdsrec.files may not"),
        (
            "evaluation/report/svg.py",
            "def late():\n    from evaluation.pool import Pool",
            "evaluation.report may not import evaluation",
        ),
    ],
)
def test_a_forbidden_import_is_found(tmp_path, module, line, message):
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            copy = tmp_path / path.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text(path.read_text())
    with (tmp_path / module).open("a") as stream:
        stream.write(f"\n{line}\n")
    [found] = violations(tmp_path, ROOMS)
    assert message in found


@pytest.mark.parametrize("room", sorted({str(p.parent) for p in modules(ROOT).values()}))
def test_no_room_holds_more_modules_than_one_can_remember(room):
    names = {path.name for path in Path(room).glob("*.py")} - {"__init__.py"}
    assert len(names) <= MOST_MODULES


DOCSTRING_RIDDLES = ("What", "How", "Who", "Whose", "Whether", "Where", "Which")


def test_docstrings_begin_with_a_verb_or_a_noun():
    for path in modules(ROOT).values():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                first = (ast.get_docstring(node) or "x").split()[0]
                assert first not in DOCSTRING_RIDDLES, f"{path}: {ast.get_docstring(node)}"


def loaded_by(program: str) -> set[str]:
    """Return which heavy packages a new process has loaded after `program`."""
    listing = f"import sys\nprint(*sorted(set({HEAVY!r}) & set(sys.modules)))"
    ended = subprocess.run(
        [sys.executable, "-c", f"{program}\n{listing}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return set(ended.stdout.splitlines()[-1].split())


def test_the_kernel_loads_nothing_heavy():
    names = [m for m in modules(ROOT) if m.split(".")[0] == "mdsrec"]
    assert loaded_by("\n".join(f"import {name}" for name in names)) == set()


HELP = """
import runpy, sys
sys.argv = [{stage!r}, *{words!r}]
try:
    runpy.run_module({stage!r}, run_name="__main__")
except SystemExit as ended:
    assert not ended.code, ended.code
"""


@pytest.mark.parametrize(
    "command",
    [
        *STAGES,
        *("cluster run", "cluster submit", "cluster preflight", "etl status", "etl clean"),
        *("evaluation compare", "evaluation recommend", "evaluation export", "evaluation append"),
        "tuning study",
    ],
)
def test_a_help_text_loads_nothing_heavy(command):
    stage, *words = command.split()
    assert loaded_by(HELP.format(stage=stage, words=[*words, "--help"])) == set()


UNTRAINED = """
import sys
from evaluation.__main__ import main
from mdsrec.errors import InputError
try:
    main({words!r})
except InputError as error:
    assert "no trained weights: run `mdsrec train CONFIG` first" in str(error), error
"""


@pytest.mark.parametrize("words", [[], ["recommend"], ["append"]])
def test_a_run_without_weights_is_refused_before_anything_heavy_is_loaded(words, tmp_path):
    given = [*words, str(ROOT / "configs/demo.toml"), f"root={tmp_path}"]
    assert loaded_by(UNTRAINED.format(words=given)) == set()


def test_the_recommender_is_in_the_package_that_has_the_name_of_the_command():
    program = "import mdsrec\nassert 'evaluation' not in __import__('sys').modules\n"
    program += "from mdsrec import Recommender as first\nfrom evaluation import Recommender\n"
    assert loaded_by(f"{program}assert first is Recommender") == {"torch"}


@pytest.mark.parametrize("stage", STAGES)
def test_a_missing_configuration_is_one_line_and_exit_code_two(stage):
    words = [*COMMANDS.get(stage, []), "none.toml"]
    ended = subprocess.run(
        [sys.executable, "-m", stage, *words], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 2
    assert ended.stderr == f"{stage}: none.toml: no such configuration file\n"
