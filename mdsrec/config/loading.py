"""Load an experiment from a TOML file and overrides. A mistake becomes an error of one line."""

import difflib
import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel, ValidationError

from mdsrec.config import Experiment, FeatureConfig
from mdsrec.config.models import sections
from mdsrec.config.section import listed
from mdsrec.config.tune import Domain
from mdsrec.credentials import without_secret
from mdsrec.errors import InputError

EXPECTED = {  # messages by pydantic's error type
    "dict_type": "expected a section of keys",
    "model_type": "expected a section of keys",
    "tuple_type": "expected a list, as in [1, 2]",
    "int_type": "expected a whole number",
    "float_type": "expected a number",
    "bool_type": "expected true or false",
    "string_type": "expected text, in quotes",
}

MODELS = sections()


def load_experiment(path: str | Path, overrides: Sequence[str] = ()) -> Experiment:
    """Return the experiment in a TOML file, changed by dotted `key=value` overrides.

    InputError names the file or key, the value found and, for an unknown key, the nearest one.
    """
    return experiment_from(read_content(path, overrides), source=str(path))


def read_content(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Return the content of a TOML file, changed by `overrides` and not validated."""
    try:
        content = tomllib.loads(Path(path).read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such configuration file") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{path}: not a readable TOML file: {error}") from None
    for override in overrides:
        _lay_over(content, override)
    return content


def experiment_from(content: Mapping[str, Any], source: str) -> Experiment:
    """Validate nested mappings as an experiment; InputError names `source`."""
    try:
        return Experiment.model_validate(content)
    except ValidationError as error:
        raise InputError(f"{source}: {_explained(error)}") from None


def to_overrides(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield `model.dim=64` for {"model": {"dim": 64}} or {"model.dim": 64}.

    Values are written as JSON, which TOML reads as the same value.
    """
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from to_overrides(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}={json.dumps(value)}"


def _lay_over(content: dict[str, Any], override: str) -> None:
    dotted, equals, text = override.partition("=")
    keys = dotted.strip().split(".")
    if not equals or not all(keys):
        raise InputError(f"override {override!r}: expected key=value, as in optim.lr=3e-4")
    section = content
    for key in keys[:-1]:
        section = section.setdefault(key, {})
        if not isinstance(section, dict):
            raise InputError(
                f"override {without_secret(override)!r}: {key} is a value, not a section"
            )
    section[keys[-1]] = _toml_value(text.strip())


def _toml_value(text: str) -> Any:
    """Parse `3e-4`, `true` or `["a", "b"]` as TOML; anything else is a string."""
    try:
        return tomllib.loads(f"value = {text}")["value"] if "\n" not in text else text
    except tomllib.TOMLDecodeError:
        return text


def _explained(error: ValidationError) -> str:
    """Return the first validation error as one line."""
    first = error.errors()[0]
    location, section = [str(part) for part in first["loc"]], _section_at(first["loc"])
    if location[:1] == ["model"]:
        del location[1:2]  # pydantic's tag of the model
    dotted = ".".join(location)
    if first["type"] == "union_tag_invalid":
        return f'model.name = "{first["ctx"]["tag"]}": unknown model; choose from {listed(MODELS)}'
    if first["type"] == "extra_forbidden":
        if location[0] == "model" and any(location[1] in s.model_fields for s in MODELS.values()):
            name = section.model_fields["name"].default
            return (
                f"{dotted}: the model {name} has no such key: remove it, or replace the section "
                f"with 'model={{name=\"{name}\"}}'"
            )
        near = difflib.get_close_matches(location[-1], section.model_fields, n=1, cutoff=0.0)
        return f"unknown key {dotted}" + (f"; the nearest key is {near[0]}" if near else "")
    if first["type"] == "missing":
        return f"key {dotted} is missing"
    message = EXPECTED.get(first["type"], first["msg"].removeprefix("Value error, "))
    if first["type"] == "value_error":
        return f"{dotted}: {message}" if dotted else message
    found = json.dumps(first["input"], default=str)
    return f"{without_secret(f'{dotted} = {found}')}: {message}"


def _section_at(location: Sequence[str | int]) -> type[BaseModel]:
    """Return the section class that should contain the last part of `location`."""
    if len(location) <= 1:
        return Experiment
    if location[0] == "model":
        return MODELS[str(location[1])]
    if location[0] == "features":
        return FeatureConfig
    if location[:2] == ("tune", "space"):
        return Domain
    return cast(type[BaseModel], Experiment.model_fields[str(location[0])].annotation)
