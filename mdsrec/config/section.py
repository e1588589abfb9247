"""The base of all configuration sections: frozen, typed, unknown keys refused."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from mdsrec.errors import InputError, refuse_credentials

Fraction = Annotated[float, Field(strict=True, ge=0, lt=1)]
Positive = Annotated[int, Field(strict=True, ge=1, lt=2**31)]
Count = Annotated[int, Field(strict=True, ge=0, lt=2**31)]
PositiveFloat = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
Flag = Annotated[bool, Field(strict=True)]
LONGEST_MINUTES = 5_256_000  # ten years; timers overflow beyond some hundred
Minutes = Annotated[float, Field(strict=True, gt=0, le=LONGEST_MINUTES, allow_inf_nan=False)]
NOT_IDENTITY: Final = "not part of a run's identity"
T = TypeVar("T")
NotIdentity = Annotated[T, NOT_IDENTITY]
"""The type of a key that may change between two starts of the same run, as `num_workers` may."""

LATER: Final = "part of a run's identity unless it has its default"
Later = Annotated[T, LATER]
"""The type of a key that came later. Its default is what runs without the key did, so these stay
the same runs.
"""

Text = Annotated[str, BeforeValidator(lambda v: str(v) if type(v) is int else v)]


class Section(BaseModel):
    """A section of the TOML file."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    def identity(self) -> dict[str, Any]:
        """Return the keys that decide a run, with their values as JSON can hold them.

        These are all but `NotIdentity`, and `Later` only with another value than its default.
        """
        values = self.model_dump(mode="json")
        kept = {}
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            is_as_before = LATER in field.metadata and value == field.default
            if name in values and NOT_IDENTITY not in field.metadata and not is_as_before:
                kept[name] = _identity(value, values[name])
        return kept


def _identity(value: Any, dumped: Any) -> Any:
    if isinstance(value, Section):
        return value.identity()
    if isinstance(value, dict):
        return {key: _identity(value[key], dumped[key]) for key in value}
    return dumped


def absolute(path: str) -> str:
    """Return a local path as an absolute one, with ~ expanded, and a URI unchanged.

    ValueError if the path is empty, InputError if a URI holds credentials.
    """
    if not path.strip():
        raise ValueError("the path is empty")
    refuse_credentials(path)
    if "\0" in path:
        raise ValueError("the path holds a NUL character: remove it")
    if path != path.encode("utf-8", "replace").decode():
        raise ValueError("the path is not UTF-8: rename the file or folder")
    try:
        return path if "://" in path else str(Path(path).expanduser().absolute())
    except RuntimeError:
        raise InputError(f"{path}: no such home folder") from None


PathOrUri = Annotated[str, AfterValidator(absolute)]


def _run_reference(text: str) -> str:
    return text if RUN_NAME.fullmatch(text) else absolute(text).rstrip("/")


RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
RunReference = Annotated[str, AfterValidator(_run_reference)]
"""The name of a run below the same root, or the path or URI of a run's folder."""


def distinct(values: Sequence[T]) -> Sequence[T]:
    """Return the values of a list that is a set. InputError names a repeated one."""
    for position, value in enumerate(values):
        if value in values[:position]:  # lists have no hash
            raise InputError(f"{value} is listed twice: remove one")
    return values


Distinct = Annotated[tuple[T, ...], AfterValidator(distinct)]


def listed(keys: Iterable[str]) -> str:
    """Return `[a, b]`, for messages."""
    return "[" + ", ".join(keys) + "]"
