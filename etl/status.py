"""How the tables of an experiment stand. Nothing is built and Spark does not start."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from etl.recipes import raw_inputs, recipes
from etl.summary import counters_line
from mdsrec import tables
from mdsrec.config import Experiment
from mdsrec.errors import InputError
from mdsrec.files import file_system
from mdsrec.tables import Manifest, Recipe, fingerprint

STANDS, DIFFERS, DAMAGED, ABSENT = "stands", "differs", "damaged", "absent"
SHOWN = ("rejected", "users", "items_interacted", "prefixes", "width", "items_without", "recall")
SHORT = 40  # characters of a value


@dataclass(frozen=True)
class Standing:
    """A table of the experiment as it is found; `why` says in words what is wrong with it."""

    name: str
    state: str
    why: str = ""
    manifest: Manifest | None = None
    age: float | None = None  # seconds

    @property
    def size(self) -> int:
        return sum(file.bytes for file in self.manifest.files) if self.manifest else 0


def standings(experiment: Experiment) -> list[Standing]:
    """Every table of the experiment, in an order in which they can be built."""
    made_by = recipes(experiment, raw_inputs(experiment))
    return [
        _standing(name, tables.table_uri(experiment.root, name), recipe)
        for name, recipe in made_by.items()
    ]


def _standing(name: str, uri: str, recipe: Recipe) -> Standing:
    try:
        manifest = tables.read_manifest(uri)
        if manifest is None:
            return Standing(name, ABSENT)
        tables.open_table(uri)
    except InputError as error:
        return Standing(name, DAMAGED, str(error).removeprefix(f"{uri}/"))
    differing = differences(manifest, recipe)
    state = DIFFERS if differing else STANDS
    return Standing(name, state, "; ".join(differing), manifest, _age(uri))


def differences(manifest: Manifest, recipe: Recipe) -> list[str]:
    """By what `recipe` would make another table: settings with their values where these are short,
    inputs.
    """
    words = []
    for key in _unequal(manifest.settings, recipe.settings):
        was, now = (str(settings.get(key)) for settings in (manifest.settings, recipe.settings))
        short = max(len(was), len(now)) <= SHORT
        words.append(f"{key} was {was}, is {now}" if short else f"another {key}")
    return words + [f"another {name}" for name in _unequal(manifest.inputs, recipe.inputs)]


def _unequal(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    keys = dict.fromkeys([*one, *other])
    return [key for key in keys if fingerprint(one.get(key)) != fingerprint(other.get(key))]


def _age(uri: str) -> float | None:
    filesystem, path = file_system(f"{uri}/{tables.MANIFEST}")
    changed = filesystem.get_file_info(path).mtime
    return max(time.time() - changed.timestamp(), 0.0) if changed else None


def screen(experiment: Experiment, found: Sequence[Standing]) -> str:
    """A line for each table: state, rows, size on disk, age, and counters or what is wrong."""
    pad = max(len(table.name) for table in found)
    lines = [f"Tables under {experiment.root}/dataset"]
    for table in found:
        manifest = table.manifest
        rows = f"{manifest.rows:,}" if manifest else ""
        size = _bytes(table.size) if manifest else ""
        age = _duration(table.age) if table.age is not None else ""
        said = table.why or (_counters(manifest) if manifest else "")
        lines.append(
            f"  {table.name:{pad}}  {table.state:7} {rows:>13} {size:>9} {age:>6}  {said}".rstrip()
        )
    standing = [table for table in found if table.state == STANDS]
    total = _bytes(sum(table.size for table in found))
    count = f"{len(standing)} of {len(found)} stand"
    return "\n".join([*lines, f"  {'total':{pad}}  {count:21} {total:>9}"])


def _counters(manifest: Manifest) -> str:
    return counters_line({key: manifest.counters[key] for key in SHOWN if key in manifest.counters})


def _bytes(size: int) -> str:
    """`3.1 MiB`"""
    amount = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1000:
            return f"{amount:.{0 if unit == 'B' else 1}f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"


def _duration(seconds: float) -> str:
    """`5 min`"""
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f} {unit}"
    return f"{seconds:.0f} s"
