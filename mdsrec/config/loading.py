"""Load an experiment from a TOML file and overrides. A mistake becomes an error of one line."""

import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mdsrec.config import Experiment
from mdsrec.config.input import properties
from mdsrec.config.mistakes import dotted_key, explanation, location_of
from mdsrec.config.stored import find_credentials
from mdsrec.credentials import HIDDEN, SECRET_PROPERTIES, remember_secrets, without_secret
from mdsrec.digests.last_line import check_last_line
from mdsrec.errors import InputError, near_file

COMMAND_LINE = "command line"
TOML_LINE = re.compile(r"\(at line (\d+), column \d+\)")
TOML_HEADER = re.compile(r"^\s*\[+([^\[\]]+)\]+\s*(?:#.*)?$", re.MULTILINE)


def load_experiment(path: str | Path, overrides: Sequence[str] = ()) -> Experiment:
    """Return the experiment in a TOML file, changed by dotted `key=value` overrides.

    InputError names the file or the command line, the key, the value found and, for an unknown key,
    the nearest one.
    """
    content = read_content(path, overrides)
    try:
        experiment = Experiment.model_validate(content)
    except ValidationError as error:
        source = _source_of(location_of(error), [str(path), *overrides])
        raise InputError(f"{source}: {explanation(error, content)}") from None
    if found := find_credentials(experiment.resolved()):
        keys, problem = found
        source = _source_of(keys, [str(path), *overrides])
        raise InputError(f"{source}: {dotted_key(keys)}: {problem}")
    only = experiment.input.only
    return experiment if only is None else experiment.of_category(only)


def read_content(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Return the content of a TOML file, changed by `overrides` and not validated.

    An override is `key=value`, or the path of another TOML file whose keys replace those before.
    """
    content = _read_file(path)
    for override in overrides:
        if _is_file(override):
            _merge(content, _read_file(override))
        else:
            _lay_over(content, override)
    remember_secrets(content)
    return content


def _is_file(override: str) -> bool:
    return override.endswith(".toml") and "=" not in override


def _source_of(location: Sequence[str | int], sources: Sequence[str]) -> str:
    """Return the last source that sets the key at `location`: a file, or the command line.

    A mistake between several keys is one of the first source, the configuration.
    """
    for source in reversed(sources[1:]):
        if _is_file(source):
            if location and _holds(_read_file(source), location):
                return source
        elif (keys := _keys_of(source)) and tuple(keys) == tuple(location[: len(keys)]):
            return COMMAND_LINE
    return sources[0]


def _holds(content: Any, location: Sequence[str | int]) -> bool:
    """Return whether the content of a file has the key at `location`."""
    for key in location:
        if not isinstance(content, Mapping) or key not in content:
            return isinstance(key, int)  # a place in a list
        content = content[key]
    return True


def _read_file(path: str | Path) -> dict[str, Any]:
    text = ""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
        check_last_line(text)
        content = tomllib.loads(text)
        _join_properties(content)
    except FileNotFoundError:
        near = near_file(str(path))
        raise InputError(f"{without_secret(str(path))}: no such configuration file{near}") from None
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8 text: save it in that encoding") from None
    except tomllib.TOMLDecodeError as error:
        line = _line_of(error, text)
        raise InputError(f"{path}: not a readable TOML file: {error}{line}") from None
    except (OSError, ValueError, RecursionError) as error:  # as a number of 5,000 digits
        raise InputError(f"{path}: not a readable TOML file: {_limit(error)}") from None
    return content


def _limit(error: BaseException) -> str:
    """Return which limit of Python a file exceeds, or else what the system said."""
    if isinstance(error, RecursionError):
        return "its values are nested too deeply"
    if isinstance(error, ValueError) and "digits" in str(error):
        return "a number has too many digits"
    return str(error)


def _line_of(error: tomllib.TOMLDecodeError, text: str) -> str:
    """Return `: ` and the line of a syntax error, without the value of a property.

    A line without a key, which continues a value, is not repeated.
    """
    if not (found := TOML_LINE.search(str(error))):
        return ""
    lines = text.splitlines()
    number = int(found[1])
    line = "".join(lines[number - 1 : number]).strip()
    headers = TOML_HEADER.findall("\n".join(lines[: number - 1]))
    section = re.sub(r"[\s\"']", "", headers[-1]) + "." if headers else ""
    if "=" not in line and not line.startswith("["):
        return ""
    shown = without_secret(section + without_secret(line))
    return f": {shown.removeprefix(section)}"


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
        raise InputError(f"{source}: {explanation(error, content)}") from None


def to_overrides(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield `model.dim=64` for {"model": {"dim": 64}} or {"model.dim": 64}."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from to_overrides(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}={toml_value(value)}"


def toml_value(value: Any) -> str:
    """Write a text, number, boolean or list as TOML, on one line.

    JSON writes them as TOML does, except for the escapes of characters outside ASCII and of DEL.
    """
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _lay_over(content: dict[str, Any], override: str) -> None:
    head, equals, text = override.partition("=")
    keys = _keys_of(override)
    if not equals or not all(keys):
        key, colon, _ = head.partition(":")
        shown = without_secret(f"{key}:{HIDDEN}" if colon else override)
        raise InputError(f"override {shown!r}: expected key=value, as in optim.lr=3e-4")
    section = content
    for key in keys[:-1]:
        section = section.setdefault(key, {})
        if not isinstance(section, dict):
            raise InputError(
                f"override {without_secret(override)!r}: {key} is a value, not a section"
            )
    section[keys[-1]] = _toml_value(text.strip())


def _keys_of(override: str) -> list[str]:
    """Return the keys of `a.b=1`: the sections, then the key."""
    keys = [key.strip().strip("\"'") for key in override.partition("=")[0].split(".")]
    if tuple(keys[:2]) in SECRET_PROPERTIES and keys[2:] and all(keys):
        keys[2:] = [".".join(keys[2:])]  # the name of one property
    return keys


def _toml_value(text: str) -> Any:
    """Parse `3e-4`, `true` or `["a", "b"]` as TOML; anything else is a string."""
    try:
        return tomllib.loads(f"value = {text}")["value"] if "\n" not in text else text
    except tomllib.TOMLDecodeError:
        return text
    except (ValueError, RecursionError) as error:
        raise InputError(f"the value of an override: {_limit(error)}") from None
