"""What configuration sections are made of: frozen, typed, unknown keys refused."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from mdsrec.credentials import refuse_credentials

Fraction = Annotated[float, Field(strict=True, ge=0, lt=1)]
Positive = Annotated[int, Field(strict=True, ge=1, lt=2**31)]
Count = Annotated[int, Field(strict=True, ge=0, lt=2**31)]
PositiveFloat = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
Flag = Annotated[bool, Field(strict=True)]
Text = Annotated[str, BeforeValidator(lambda v: str(v) if type(v) is int else v)]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


def absolute(path: str) -> str:
    """A local path made absolute against the working directory; a URI as it is, if it holds no
    credentials.
    """
    if not path.strip():
        raise ValueError("the path is empty")
    refuse_credentials(path)
    return path if "://" in path else str(Path(path).expanduser().absolute())


def listed(keys: Iterable[str]) -> str:
    return "[" + ", ".join(keys) + "]"
