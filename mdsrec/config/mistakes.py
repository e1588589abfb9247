"""A mistake in a configuration, in one line and in our words."""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, cast

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from mdsrec.config import ColumnsConfig, Experiment, FeatureConfig, MDSRecConfig
from mdsrec.config.models import sections
from mdsrec.config.nearest_key import nearest_key
from mdsrec.config.own_model import OWN, own_section
from mdsrec.config.section import Section, listed
from mdsrec.config.tune import Domain
from mdsrec.credentials import HIDDEN, without_secret

EXPECTED = {  # messages by pydantic's error type, with the values of its context
    "dict_type": "expected a section of keys",
    "model_type": "expected a section of keys",
    "tuple_type": "expected a list, as in [1, 2]",
    "int_type": "expected a whole number",
    "float_type": "expected a number",
    "bool_type": "expected true or false",
    "string_type": "expected text, in quotes",
    "literal_error": "expected {expected}",
    "less_than": "expected a number below {lt:.15g}",
    "less_than_equal": "expected {le:.15g} at most",
    "greater_than": "expected a number above {gt:.15g}",
    "greater_than_equal": "expected {ge:.15g} at least",
    "finite_number": "expected a finite number",
    "too_short": "expected {min_length} values at least, found {actual_length}",
    "too_long": "expected {max_length} values at most, found {actual_length}",
    "string_too_short": "expected {min_length} characters at least",
    "string_too_long": "expected {max_length} characters at most",
    "string_pattern_mismatch": "expected text of the form {pattern}",
}

SECTION_TYPES = ("dict_type", "model_type", "model_attributes_type")
MODELS = sections()


def explanation(error: ValidationError, content: Mapping[str, Any]) -> str:
    """Return the first validation error as one line."""
    first = error.errors()[0]
    if first["type"] == OWN:
        return first["msg"]
    location, section = location_of(error), _section_at(first["loc"], content)
    dotted = dotted_key(location)
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
    message = expectation(first)
    if first["type"] == "value_error":
        return f"{dotted}: {message}" if dotted else message
    return f"{without_secret(f'{dotted} = {_shown(first)}')}: {message}"


def _shown(mistake: ErrorDetails) -> str:
    """Return the value that was found, of a list or a section only its brackets.

    A text or whole number where a section belongs is hidden: it may be a password of that section.
    """
    found = mistake["input"]
    if isinstance(found, Mapping):
        return "{...}"
    if isinstance(found, list | tuple):
        return "[...]"
    if isinstance(found, str | int) and mistake["type"] in SECTION_TYPES:
        return json.dumps(HIDDEN)
    return json.dumps(found, default=str, ensure_ascii=False)


def dotted_key(location: Sequence[str | int]) -> str:
    """Return the keys to a value as `input.reviews[0]`."""
    return "".join(f"[{at}]" if isinstance(at, int) else f".{at}" for at in location)[1:]


def location_of(error: ValidationError) -> tuple[str | int, ...]:
    """Return the keys to the first mistake, without pydantic's tag of the model."""
    location = error.errors()[0]["loc"]
    return ("model", *location[2:]) if location[:1] == ("model",) else location


def expectation(mistake: ErrorDetails) -> str:
    """Return what a value should have been, in our words where pydantic's type has some."""
    if mistake["type"] in EXPECTED:
        message = EXPECTED[mistake["type"]].format(**mistake.get("ctx", {}))
        return re.sub(r"\b1 (value|character)s", r"1 \1", message)
    return mistake["msg"].removeprefix("Value error, ")


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
