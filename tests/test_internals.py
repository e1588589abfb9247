"""Names of Ray and DeepSpeed that are not public are used only in `training.distributed`."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("mdsrec", "etl", "training", "evaluation", "tuning", "cluster", "benchmarks")
LIBRARIES = ("ray", "deepspeed")
HOME = ROOT / "training" / "distributed"


def private_names(source: str) -> Iterator[str]:
    """Yield the dotted names of both libraries in which a part starts with an underscore."""
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Attribute):
            names = [ast.unparse(node)]
        for name in names:
            first, *others = name.split(".")
            if first in LIBRARIES and any(other.startswith("_") for other in others):
                yield name


def test_private_names_are_found_in_imports_and_attributes() -> None:
    source = "from ray.x._internal import a\nimport ray._b\nray.init(ray._private.state)\nself._c"
    assert set(private_names(source)) == {
        "ray.x._internal.a",
        "ray._b",
        "ray._private",
        "ray._private.state",
    }


def test_private_names_are_used_only_in_training_distributed() -> None:
    users = {
        path
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if list(private_names(path.read_text()))
    }
    names = ("ray_internals.py", "ray_train_internals.py", "deepspeed_internals.py")
    assert users == {HOME / name for name in names}
