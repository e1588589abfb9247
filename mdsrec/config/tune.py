"""The section [tune]: the space of a sweep, its search and its budget."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from mdsrec.config.section import (
    LONGEST_MINUTES,
    Distinct,
    Positive,
    PositiveFloat,
    Section,
    listed,
)

Numbers = tuple[float, float]

SEARCHED = (
    "model",
    "optim",
    "train",
    "graph",
    "transitions",
)  # sections with keys that a space may contain
NOT_SEARCHED = {
    "model.memory": "trials are compared before its weight is chosen",
    "model.name": "each model has other keys; compare models with `mdsrec study`",
    "train.num_workers": "all trials have one size",
    "train.cpus_per_worker": "all trials have one size",
    "train.device": "all trials have one size",
    **dict.fromkeys(
        ("graph.max_neighbors", "graph.search", "graph.min_recall", "graph.max_overlap"),
        "trials would overwrite each other's tables",
    ),
    "graph.mu": "it only lists tables to build; search model.mu.MODALITY",
    "graph.num_centers": "it only lists tables to build; search model.num_centers",
}


class Domain(Section):
    """The values of one key. Exactly one of the kinds of domain is set."""

    choice: Distinct[Any] | None = Field(default=None, min_length=1)
    """Draw one of these values."""
    grid: Distinct[Any] | None = Field(default=None, min_length=1)
    """Try every one of these values with every draw of the other keys."""
    uniform: Numbers | None = None
    """Draw uniformly from [low, high]."""
    loguniform: Numbers | None = None
    """Draw the logarithm uniformly from [low, high]."""
    simplex: Distinct[str] | None = Field(default=None, min_length=2)
    """Draw one share per name; the shares sum to 1."""
    steps: Positive | None = None
    """Use only shares that are multiples of 1 / steps, and try all of them, as in a grid. Unset
    means any share.
    """

    @model_validator(mode="after")
    def _one_word(self) -> Self:
        words = [name for name in Domain.model_fields if name != "steps"]
        found = [name for name in words if getattr(self, name) is not None]
        if len(found) != 1:
            raise ValueError(f"expected one of {listed(words)}, found {listed(found)}")
        if self.steps and not self.simplex:
            raise ValueError("steps needs simplex")
        for word in ("uniform", "loguniform"):
            bounds: Numbers | None = getattr(self, word)
            lowest = 0 if word == "loguniform" else float("-inf")
            if bounds and not lowest < bounds[0] < bounds[1] < float("inf"):
                more = " and both above 0" if word == "loguniform" else ""
                raise ValueError(
                    f"{word} = {list(bounds)}: expected [low, high] with low < high{more}"
                )
        return self

    @property
    def is_grid(self) -> bool:
        """Return whether every value is tried, with any searcher."""
        return self.grid is not None or self.steps is not None

    @property
    def is_finite(self) -> bool:
        """Return whether the values can be listed."""
        return self.is_grid or self.choice is not None


class TuneConfig(Section):
    """A sweep. The metric of a trial is the validation ndcg@10 of its best epoch."""

    space: dict[str, Domain] = Field(default={})
    """Domains by dotted key, as in `model.num_neighbors = { choice = [5, 10, 20] }`."""
    searcher: Literal["random", "grid", "optuna"] = "random"
    """grid tries every combination of values; optuna is its TPE sampler."""
    scheduler: Literal["asha", "none"] = "asha"
    """asha stops trials that are worse than others at the same epoch."""
    trials: Positive = 20
    """Draws of the keys that are not a grid; the grid searcher ignores it."""
    seeds: Positive = 1
    """Seeds per trial, from `seed` upwards. The metric of a trial is their mean."""
    hours: Annotated[PositiveFloat, Field(le=LONGEST_MINUTES / 60)] | None = None
    """Longest duration of one call; `--resume` continues the sweep."""
    concurrent: Positive | None = None
    """Most trials in parallel. Unset means as many as the cluster can hold."""
    grace_epochs: Positive = 1
    """Epochs before the first rung of asha."""
    reduction: Annotated[float, Field(gt=1, allow_inf_nan=False)] = 3.0
    """At a rung, asha keeps the best 1 / reduction of the trials seen there. The epoch of each rung
    is `reduction` times that of the one before.
    """

    @field_validator("space", mode="before")
    @classmethod
    def _by_dotted_keys(cls, space: Any) -> Any:
        """Join the nested sections that TOML makes of dotted keys."""
        return dict(_domains(space)) if isinstance(space, Mapping) else space

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        for key, domain in self.space.items():
            if key.split(".")[0] not in SEARCHED:
                raise ValueError(
                    f"space.{key}: a sweep can only search the sections {listed(SEARCHED)}; "
                    "for other data write another experiment"
                )
            if key in NOT_SEARCHED:
                raise ValueError(f"space.{key}: cannot be searched: {NOT_SEARCHED[key]}")
            if self.searcher == "grid" and not domain.is_finite:
                raise ValueError(
                    f"space.{key}: the grid searcher needs a list of values: use choice, grid or a "
                    "simplex with steps"
                )
            if self.searcher == "optuna" and domain.is_grid:
                raise ValueError(
                    f"space.{key}: optuna chooses values itself: use choice instead of grid"
                )
        return self


def _domains(nested: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in nested.items():
        dotted = f"{prefix}{key}"
        if isinstance(value, Domain) or (
            isinstance(value, Mapping) and value.keys() & Domain.model_fields.keys()
        ):
            yield dotted, value
        elif isinstance(value, Mapping) and value:
            yield from _domains(value, f"{dotted}.")
        else:
            raise ValueError(f"{dotted}: expected values, as in {{ choice = [1, 2] }}")
