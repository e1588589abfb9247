"""Load an experiment from a TOML file and overrides. A mistake becomes an error of one line."""

import json
import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel, ValidationError

from mdsrec.config import ColumnsConfig, Experiment, FeatureConfig, MDSRecConfig
from mdsrec.config.input import properties
from mdsrec.config.models import sections
from mdsrec.config.nearest_key import nearest_key
from mdsrec.config.own_model import OWN, own_section
from mdsrec.config.section import Section, listed
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
SECRET_PROPERTIES = (("spark", "settings"), ("input", "options"))


def load_experiment(path: str | Path, overrides: Sequence[str] = ()) -> Experiment:
    """Return the experiment in a TOML file, changed by dotted `key=value` overrides.

    InputError names the file or key, the value found and, for an unknown key, the nearest one.
    """
    return experiment_from(read_content(path, overrides), source=str(path))


def read_content(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Return the content of a TOML file, changed by `overrides` and not validated.

    An override is `key=value`, or the path of another TOML file whose keys replace those before.
    """
    content = _read_file(path)
    for override in overrides:
        if override.endswith(".toml") and "=" not in override:
            _merge(content, _read_file(override))
        else:
            _lay_over(content, override)
    return content


def _read_file(path: str | Path) -> dict[str, Any]:
    try:
        content = tomllib.loads(Path(path).read_text(encoding="utf-8-sig"))
        _join_properties(content)
    except FileNotFoundError:
        raise InputError(f"{without_secret(str(path))}: no such configuration file") from None
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8 text: save it in that encoding") from None
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{path}: not a readable TOML file: {error}") from None
    return content


def _merge(content: dict[str, Any], other: Mapping[str, Any]) -> None:
    """Replace the keys of nested sections by those of `other`."""
    for key, value in other.items():
        if isinstance(value, Mapping) and isinstance(content.get(key), dict):
            _merge(content[key], value)
        else:
            content[key] = value


def _join_properties(content: dict[str, Any]) -> None:
    """Join the dotted keys of properties, so that an override finds them in any spelling."""
    for name, key in SECRET_PROPERTIES:
        section = content.get(name)
        if isinstance(section, dict) and isinstance(section.get(key), dict):
            try:
                section[key] = properties(section[key])
            except InputError as error:
                raise InputError(f"{name}.{key}: {error}") from None


def experiment_from(content: Mapping[str, Any], source: str) -> Experiment:
    """Validate nested mappings as an experiment; InputError names `source`."""
    try:
        return Experiment.model_validate(content)
    except ValidationError as error:
        raise InputError(f"{source}: {_explained(error, content)}") from None


def to_overrides(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield `model.dim=64` for {"model": {"dim": 64}} or {"model.dim": 64}."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from to_overrides(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}={toml_value(value)}"


def toml_value(value: Any) -> str:
    """Write a text, number, boolean or list as TOML, on one line.

    JSON writes them as TOML does, but for the escapes of characters outside ASCII and of DEL.
    """
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _lay_over(content: dict[str, Any], override: str) -> None:
    dotted, equals, text = override.partition("=")
    keys = [key.strip().strip("\"'") for key in dotted.split(".")]
    if not equals or not all(keys):
        raise InputError(
            f"override {without_secret(override)!r}: expected key=value, as in optim.lr=3e-4"
        )
    if tuple(keys[:2]) in SECRET_PROPERTIES and keys[2:]:  # the rest is the name of one property
        keys[2:] = [".".join(keys[2:])]
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


def _explained(error: ValidationError, content: Mapping[str, Any]) -> str:
    """Return the first validation error as one line."""
    first = error.errors()[0]
    if first["type"] == OWN:
        return first["msg"]
    location, section = first["loc"], _section_at(first["loc"], content)
    if location[:1] == ("model",):
        location = ("model", *location[2:])  # without pydantic's tag of the model
    dotted = "".join(f"[{at}]" if isinstance(at, int) else f".{at}" for at in location)[1:]
    if first["type"] == "union_tag_invalid":
        name = first["ctx"]["tag"]
        return (
            f'model.name = "{name}": unknown model; choose from {listed(MODELS)}, or give '
            '"package:Class"'
        )
    if first["type"] == "extra_forbidden":
        if location[0] == "model" and any(location[1] in s.model_fields for s in MODELS.values()):
            name = content["model"].get("name", "mdsrec")
            return (
                f"{dotted}: the model {name} has no such key: remove it, or replace the section "
                f"with 'model={{name=\"{name}\"}}'"
            )
        hint = nearest_key(str(location[-1]), section.model_fields, _searched_sections())
        return f"unknown key {dotted}; {hint}"
    if first["type"] == "missing":
        return f"key {dotted} is missing"
    message = EXPECTED.get(first["type"], first["msg"].removeprefix("Value error, "))
    if first["type"] == "value_error":
        return f"{dotted}: {message}" if dotted else message
    found = json.dumps(first["input"], default=str, ensure_ascii=False)
    return f"{without_secret(f'{dotted} = {found}')}: {message}"


def _searched_sections() -> Mapping[str, Collection[str]]:
    """Return the keys of the sections in which a key of another section is searched."""
    return {
        name: field.annotation.model_fields
        for name, field in Experiment.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
    } | {"model": MDSRecConfig.model_fields}


def _section_at(location: Sequence[str | int], content: Mapping[str, Any]) -> type[BaseModel]:
    """Return the section class that should contain the last part of `location`."""
    if len(location) <= 1:
        return Experiment
    if location[0] == "model":
        own = location[1] == OWN
        return own_section(content["model"]["name"]) if own else MODELS[str(location[1])]
    if location[0] == "features":
        return FeatureConfig
    if location[:2] == ("input", "columns"):
        return ColumnsConfig
    if location[:2] == ("tune", "space"):
        return Domain
    return cast(type[BaseModel], Experiment.model_fields[str(location[0])].annotation)
