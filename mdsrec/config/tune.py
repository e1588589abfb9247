"""[tune]: the space of a sweep, how it is searched, and what it may cost."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from mdsrec.config.section import Positive, PositiveFloat, Section, listed

Numbers = tuple[float, float]

SEARCHED = ("model", "optim", "train", "graph")  # sections whose keys a space may hold
NOT_SEARCHED = {
    "model.name": "it has keys of its own for each value: `python -m tuning study` compares models",
    "train.num_workers": "all trials have one size",
    "train.cpus_per_worker": "all trials have one size",
    "train.device": "all trials have one size",
    "graph.max_neighbors": "tables of other widths would replace each other",
    "graph.mu": "it lists what to build; the space holds model.mu.MODALITY",
    "graph.num_centers": "it lists what to build; the space holds model.num_centers",
}


class Domain(Section):
    """The values of one key, by one of these words."""

    choice: tuple[Any, ...] | None = Field(default=None, min_length=1)
    """One of these"""
    grid: tuple[Any, ...] | None = Field(default=None, min_length=1)
    """Each of these, at every draw of the other keys"""
    uniform: Numbers | None = None
    loguniform: Numbers | None = None
    simplex: tuple[str, ...] | None = Field(default=None, min_length=2)
    """Shares of these names, which sum to 1"""
    steps: Positive | None = None
    """The shares of a simplex are multiples of 1 / steps, each of them at every draw, as in a grid;
    none = any share
    """

    @model_validator(mode="after")
    def _one_word(self) -> Self:
        words = [name for name in Domain.model_fields if name != "steps"]
        found = [name for name in words if getattr(self, name) is not None]
        if len(found) != 1:
            raise ValueError(f"expected one of {listed(words)}, found {listed(found)}")
        if self.steps and not self.simplex:
            raise ValueError("steps goes with simplex alone")
        for word in ("uniform", "loguniform"):
            bounds: Numbers | None = getattr(self, word)
            lowest = 0 if word == "loguniform" else float("-inf")
            if bounds and not lowest < bounds[0] < bounds[1] < float("inf"):
                more = ", and above 0" if word == "loguniform" else ""
                raise ValueError(f"{word} = {list(bounds)}: expected [low, high], low first{more}")
        return self

    @property
    def is_grid(self) -> bool:
        """Whether every one of its values is tried, whatever the searcher."""
        return self.grid is not None or self.steps is not None

    @property
    def is_finite(self) -> bool:
        return self.is_grid or self.choice is not None


class TuneConfig(Section):
    """A sweep. Trials are judged by validation ndcg@10, the best epoch's."""

    space: dict[str, Domain] = Field(default={})
    """By dotted keys of the experiment, as in `model.num_neighbors = { choice = [5, 10, 20] }`"""
    searcher: Literal["random", "grid", "optuna"] = "random"
    """grid takes every value of every key; optuna is its TPE"""
    scheduler: Literal["asha", "none"] = "asha"
    """asha ends trials that are behind others at the same epoch"""
    trials: Positive = 20
    """Draws of the keys that are no grid; the grid searcher has none"""
    seeds: Positive = 1
    """Seeds a trial: experiment.seed and those after it. A trial counts by their mean."""
    hours: PositiveFloat | None = None
    """What one call of the sweep may take; `--resume` goes on"""
    concurrent: Positive | None = None
    """Trials at a time at most; none = as many as the cluster holds"""
    grace_epochs: Positive = 1
    """The first rung of asha, in epochs"""
    reduction: Annotated[float, Field(gt=1, allow_inf_nan=False)] = 3.0
    """At a rung, a trial below the best 1 / reduction of those seen there ends; each rung is
    reduction times as far as the one before.
    """

    @field_validator("space", mode="before")
    @classmethod
    def _by_dotted_keys(cls, space: Any) -> Any:
        """TOML makes sections of dotted keys."""
        return dict(_domains(space)) if isinstance(space, Mapping) else space

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        for key, domain in self.space.items():
            if key.split(".")[0] not in SEARCHED:
                raise ValueError(
                    f"space.{key}: a sweep searches sections {listed(SEARCHED)}; for another data "
                    "set make another experiment"
                )
            if key in NOT_SEARCHED:
                raise ValueError(f"space.{key}: not searched: {NOT_SEARCHED[key]}")
            if self.searcher == "grid" and not domain.is_finite:
                raise ValueError(
                    f"space.{key}: a grid needs values one by one: choice, grid or a simplex with "
                    "steps"
                )
            if self.searcher == "optuna" and domain.is_grid:
                raise ValueError(
                    f"space.{key}: optuna chooses values itself: choice instead of grid"
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
