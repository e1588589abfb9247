"""Write docs/configuration.md, the reference of every configuration key: `make docs`.

Meanings, types and defaults are read from the configuration classes. The last column is measured:
each key is changed in a small experiment, and the recipes of its tables are compared.
"""

import ast
import inspect
import re
import sys
import tempfile
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin

from pydantic.fields import FieldInfo

sys.path.insert(0, str(Path(__file__).parent.parent))

from etl.recipes import raw_inputs, recipes
from mdsrec.config import ColumnsConfig, Experiment, FeatureConfig, FeaturesConfig
from mdsrec.config.input import TABLE_KEYS
from mdsrec.config.loading import experiment_from
from mdsrec.config.model_base import NetworkConfig
from mdsrec.config.models import sections
from mdsrec.config.section import Section
from mdsrec.config.tune import Domain

PAGE = Path(__file__).with_suffix(".md")

HEAD = """# Configuration

An experiment is one TOML file, and every stage reads it. Any key can be changed on the command
line: `mdsrec train CONFIG optim.lr=1e-3`. An unknown key is an error that names the nearest
key.

This page is generated from the configuration classes (`make docs`). The last column says what a new
value of the key invalidates:

- **tables**: the next `mdsrec etl CONFIG` builds these tables again (or, for keys that are part
  of a table's name, beside the old ones). Tables that are not listed are kept.
- **run**: the key is part of a run's identity. The same `name` with another value is refused, so
  choose another name, or delete the run with `--fresh`. A run is also refused when the tables that
  it was trained on were built again.
- nothing: the key can change between two starts of the same run.
"""

ARTS = {"Arts": {"reviews": ["ROOT/raw.json"]}}
NEW_VALUES: dict[str, Any] = {
    "name": "other",
    "root": "ROOT/elsewhere",
    "input.edition": "2014",
    "input.reviews": ["ROOT/more.json"],
    "input.metadata": ["ROOT/more.json"],
    "input.format": "table",
    "input.source": "orc",
    "input.interactions": ["ROOT/more.csv"],
    "input.items": ["ROOT/more.csv"],
    "input.categories": ARTS,
    "input.only": "Arts",
    "input.time_unit": "seconds",
    "input.separator": ";",
    "input.options": {"url": "jdbc:other"},
    "input.snapshot": "later",
    **{
        f"input.columns.{key}": "c"
        for key in ("user", "item", "time", "item_key", "title", "image")
    },
    "input.columns.text": ["c"],
    "features.NAME.column": "c",
    "sequences.cut": [0.7, 0.8],
    "sequences.split": "leave_one_out",
    "features.NAME.encoder": "ROOT/encoder",
    "features.NAME.fields": ["title"],
    "features.NAME.images": "url",
    "features.NAME.vectors": "ROOT/more.parquet",
    "features.NAME.ids": None,
    "graph.max_distance": 5,
    "graph.min_recall": 0.5,
    "graph.mu": [0.7],
    "graph.num_centers": [7],
    "spark.master": "yarn",
    "spark.driver_memory": "3g",
    "spark.settings": {"spark.ui.enabled": "true"},
    "model.modalities": ["text"],
    "model.mu": {"text": 0.3, "vectors": 0.3, "image": 0.3},
    "model.rho": {"text": 0.5, "vectors": 0.25, "image": 0.25},
    "model.num_layers": 6,
    "model.num_heads": 1,
    "eval.cutoffs": [5],
    "eval.pictures": "ROOT",
    "optim.decay": "linear",
    "train.init_from": "before",
    "train.loss": "sampled",
    "train.tracking": "mlflow",
    "tune.space": {"optim.lr": {"choice": [1e-3]}},
    "tune.hours": 1.0,
    "tune.concurrent": 1,
    "study": {"sasrec": {"optim.lr": 1e-3}},
}
"""New values for keys whose type does not suggest one."""

COMPANIONS: dict[str, dict[str, Any]] = {
    "input.categories": {"input.reviews": None},
    "sequences.split": {"sequences.cut": None},
    "optim.decay": {"optim.decay_steps": 10},
    "optim.decay_epochs": {"optim.decay": "linear"},
    "optim.decay_steps": {"optim.decay": "linear"},
    "optim.lazy_adam": {
        "train.loss": "sampled",
        "train.num_negatives": 2,
        "model.interest_centers": False,
    },
    "train.loss": {"train.num_negatives": 2},
    "train.negatives": {"train.loss": "sampled", "train.num_negatives": 2},
    "train.num_negatives": {"train.loss": "sampled"},
    "train.offload": {"train.zero_stage": 1},
}
"""Other keys that a new value of a key needs."""


class Key(NamedTuple):
    """One row of the page."""

    dotted: str
    kind: str
    default: str
    meaning: str
    effect: str


def meanings(section: type[Section]) -> dict[str, str]:
    """Return the docstring below each key of a class and of its bases."""
    found: dict[str, str] = {}
    for base in reversed(section.__mro__):
        if not issubclass(base, Section):
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        assert isinstance(body, ast.ClassDef)
        for field, text in zip(body.body, body.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
                assert isinstance(field.target, ast.Name) and isinstance(text.value, ast.Constant)
                found[field.target.id] = " ".join(str(text.value.value).split())
    return found


def kind_of(annotation: Any) -> str:
    """Return a type as a reader of TOML knows it."""
    arguments = [a for a in get_args(annotation) if a is not type(None)]
    match get_origin(annotation):
        case None if annotation in PLAIN:
            return PLAIN[annotation]
        case origin if origin is tuple:
            return "list of " + kind_of(arguments[0])
        case origin if origin is dict:
            return "section"
    if hasattr(annotation, "__metadata__"):
        return kind_of(arguments[0])
    if all(isinstance(a, str | int) for a in arguments):
        names = [a if isinstance(a, str) else toml(a) for a in arguments]
        return ", ".join(f"`{name}`" for name in names)
    return " or ".join(dict.fromkeys(map(kind_of, arguments)))


PLAIN = {int: "integer", float: "number", str: "string", bool: "boolean", Any: "value"}


def toml(value: Any) -> str:
    """Return a default as TOML writes it."""
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, tuple | list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def default_of(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if field.default is None:
        return "unset"
    return f"`{toml(field.default)}`"


def new_value(dotted: str, field: FieldInfo, value: Any) -> Any:
    """Return another valid value for a key."""
    if dotted in NEW_VALUES:
        return NEW_VALUES[dotted]
    options = [a for a in get_args(field.annotation) if isinstance(a, str | int)]
    if options:
        return next(option for option in options if option != value)
    if isinstance(value, bool):
        return not value
    if value is None:
        return 7
    if isinstance(value, int):
        return 2 * value or 1
    return value / 2 or 0.25


def is_fixed(field: FieldInfo) -> bool:
    """Return whether a key has only one value."""
    return get_origin(field.annotation) is Literal and len(get_args(field.annotation)) == 1


def base_experiment(root: Path) -> dict[str, Any]:
    """Return an experiment with a modality of every kind: vectors, text and images."""
    for name in ("raw.json", "more.json", "a.parquet", "more.parquet", "a.csv", "more.csv"):
        (root / name).write_text(name)
    for folder in ("encoder", "images"):
        (root / folder).mkdir(exist_ok=True)
        (root / folder / "config.json").write_text("{}")
    (root / "images" / "A.jpg").write_bytes(b"")
    return {
        "name": "base",
        "root": str(root),
        "input": {"edition": "2018", "reviews": [str(root / "raw.json")]},
        "sequences": {"split": "global_time", "cut": [0.8, 0.9]},
        "features": {
            "text": {"encoder": str(root / "images")},
            "vectors": {"vectors": str(root / "a.parquet")},
            "image": {"encoder": str(root / "images"), "images": str(root / "images")},
        },
    }


def changed(content: Mapping[str, Any], dotted: str, value: Any) -> dict[str, Any]:
    """Return the content with one dotted key changed; None removes the key."""
    first, _, rest = dotted.partition(".")
    copy = dict(content)
    if rest:
        copy[first] = changed(copy.get(first, {}), rest, value)
    elif value is None:
        copy.pop(first, None)
    else:
        copy[first] = value
    return copy


def tables_of(experiment: Experiment) -> dict[str, str]:
    """Return the fingerprint of every table by name."""
    found = recipes(experiment, raw_inputs(experiment))
    return {name: recipe.fingerprint for name, recipe in found.items()}


OF_SOURCES = ("input.options", "input.snapshot")
TABLES = {
    *(f"input.{key}" for key in TABLE_KEYS),
    *(f"input.columns.{key}" for key in ColumnsConfig.model_fields),
    "features.vectors.column",
}


def of_tables(base: Mapping[str, Any], dotted: str) -> dict[str, Any]:
    """Return the experiment with tables of the user's own as its input, for one of their keys."""
    files = {key: [f"{base['root']}/a.csv"] for key in ("interactions", "items")}
    source = {"source": "delta"} if dotted in OF_SOURCES else {}
    found = dict(base) | {"input": {"format": "table", **source, **files}}
    column = dotted.endswith(".column")
    return changed(found, "features.vectors", {"column": "v"}) if column else found


def effect(base: Mapping[str, Any], dotted: str, value: Any) -> str:
    """Return what a new value of a key invalidates."""
    if dotted in TABLES:
        base = of_tables(base, dotted)
    if dotted == "input.only":
        base = changed(base, "input", {"edition": "2018", "categories": _below(ARTS, base["root"])})
    other = of_tables(base, dotted) if dotted == "input.format" else base
    for key, companion in COMPANIONS.get(dotted, {}).items():
        other = changed(other, key, _below(companion, base["root"]))
    before = experiment_from(base, "base")
    after = experiment_from(changed(other, dotted, value), dotted)
    old, new = tables_of(before), tables_of(after)
    kinds = [re.split("[/,]", name)[0] for name in new if new[name] != old.get(name)]
    words = [f"tables {', '.join(dict.fromkeys(kinds))}"] if kinds else []
    words += ["run"] if before.identity() != after.identity() else []
    return "; ".join(words)


SUBSECTIONS = (
    *(
        "input",
        "input.columns",
        "sequences",
        "features",
        "graph",
        "transitions",
        "spark",
        "model",
        "optim",
        "train",
        "eval",
        "tune",
    ),
)
SHARED_KEYS = {f"model.{name}" for name in NetworkConfig.model_fields}
MODALITY_OF_KEY = {
    "vectors": "vectors",
    "ids": "vectors",
    "column": "vectors",
    "max_shared": "vectors",
    "images": "image",
}


def keys_of(section: type[Section], prefix: str, base: Mapping[str, Any]) -> list[Key]:
    """Return the rows of a section, without its subsections; `prefix` ends with a dot, if any."""
    meaning, rows = meanings(section), []
    for name, field in section.model_fields.items():
        dotted = f"{prefix}{name}"
        if dotted in SUBSECTIONS:
            continue
        said = ""
        if dotted == "model.name":
            said = "run"
        elif section is not Domain and not is_fixed(field):
            value = _below(new_value(dotted, field, field.default), base["root"])
            said = effect(base, dotted.replace("NAME", MODALITY_OF_KEY.get(name, "text")), value)
        rows.append(Key(dotted, kind_of(field.annotation), default_of(field), meaning[name], said))
    return rows


def _below(value: Any, root: str) -> Any:
    if isinstance(value, dict):
        return {key: _below(part, root) for key, part in value.items()}
    if isinstance(value, str):
        return value.replace("ROOT", root)
    return [_below(v, root) for v in value] if isinstance(value, list) else value


def table(keys: list[Key]) -> str:
    head = ["| key | type | default | meaning | invalidates |", "|---|---|---|---|---|"]
    return "\n".join([*head, *(f"| `{key.dotted}` | {' | '.join(key[1:])} |" for key in keys)])


def page() -> str:
    """Return the whole page."""
    with tempfile.TemporaryDirectory() as folder:
        base = base_experiment(Path(folder))
        parts = [HEAD, "## Top level", table(keys_of(Experiment, "", base))]
        for name in SUBSECTIONS:
            if name == "model":
                parts += model_parts(base)
                continue
            if name == "features":
                parts += ["## `[features]`", str(FeaturesConfig.__doc__)]
            known: dict[str, Any] = {"features": FeatureConfig, "input.columns": ColumnsConfig}
            section = known.get(name) or Experiment.model_fields[name].annotation
            title = "features.NAME" if name == "features" else name
            assert isinstance(section, type) and issubclass(section, Section)
            parts += [f"## `[{title}]`", str(section.__doc__)]
            with_memory = changed(base, "model.memory", True)
            counted = with_memory if name == "transitions" else base
            parts.append(table(keys_of(section, f"{title}.", counted)))
        parts += ["### `[tune.space]`", str(Domain.__doc__)]
        parts.append(table(keys_of(Domain, "tune.space.KEY.", base)))
    return "\n\n".join(part.strip() for part in parts) + "\n"


def model_parts(base: Mapping[str, Any]) -> list[str]:
    """Return the keys of every model once, then those that a model adds or changes."""
    rows = {
        name: keys_of(section, "model.", changed(base, "model", {"name": name}))
        for name, section in sections().items()
    }
    shared = [row for row in rows["sasrec"] if row.dotted in SHARED_KEYS]
    known = {row[:-1] for row in shared}
    names = shared[0]._replace(kind=", ".join(f"`{name}`" for name in rows), default='`"mdsrec"`')
    parts = ["## `[model]`", "Keys of every model with a network. Those of a single model follow."]
    parts.append(table([names, *shared[1:]]))
    for name, section in sections().items():
        own = [row for row in rows[name][1:] if row[:-1] not in known]
        parts += [f'### `[model]` with `name = "{name}"`', str(section.__doc__)]
        parts += [table(own)] if own else []
    return parts


if __name__ == "__main__":
    PAGE.write_text(page())
