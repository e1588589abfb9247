"""What sections [model] have in common: keys that models share, and what of the item tables each
model reads.
"""

from collections.abc import Sequence
from typing import Annotated, NamedTuple, Self

from pydantic import Field, model_validator

from mdsrec.config.etl import GraphConfig
from mdsrec.config.section import Fraction, NonNegativeFloat, Positive, Section, listed


class Needs(NamedTuple):
    """What a model reads beside the sequences: N(O), and of each modality one table or more."""

    cooccurrence: bool = False
    neighbors: bool = False
    centers: bool = False
    features: bool = False


class ModelConfig(Section):
    """Keys that every model has; a model of item ids alone has no others to do with items."""

    name: str
    dim: Positive = 300
    """D, the width of items and users"""
    dropout: Fraction = 0.5
    max_length: Annotated[int, Field(strict=True, ge=2, lt=2**31)] = 50
    temperature: NonNegativeFloat = 0.0
    """Scores are cosines over it; 0 = inner products"""

    @property
    def scores_cosines(self) -> bool:
        return self.temperature > 0

    @property
    def needs(self) -> Needs:
        return Needs()

    @property
    def neighbors_read(self) -> int:
        """How many neighbours of an item it reads in each modality."""
        return 0

    @property
    def simpler(self) -> tuple[str, str] | None:
        """What to call this model with one part less, and the override that takes it out."""
        return None

    def chosen(self, features: Sequence[str]) -> tuple[str, ...]:
        """The modalities it uses of those that have a section [features.*]."""
        return ()

    def mus(self, modality: str) -> tuple[float, ...]:
        """Every mu^m that its neighbours are built for."""
        return ()

    def all_num_centers(self) -> tuple[int, ...]:
        """Every k that is clustered for it."""
        return ()

    def check(self, features: Sequence[str], graph: GraphConfig) -> None:
        """ValueError if it does not go with the sections [features.*] and [graph]."""

    def check_fits(self, modality: str, num_items: int) -> None:
        """InputError if it asks for more than the `num_items` items that have the modality."""


class TransformerConfig(ModelConfig):
    num_layers: Positive = 2
    """L"""
    num_heads: Positive = 2
    inner_dim: Positive = 256

    @model_validator(mode="after")
    def _heads(self) -> Self:
        if self.dim % self.num_heads:
            raise ValueError(f"dim {self.dim} is not a multiple of num_heads {self.num_heads}")
        return self


class MultimodalConfig(ModelConfig):
    modalities: tuple[str, ...] | None = None
    """Modalities the model uses; none = every [features.*]; [] = item ids alone."""

    @model_validator(mode="after")
    def _named_once(self) -> Self:
        if len(set(self.modalities or ())) < len(self.modalities or ()):
            raise ValueError(f"modalities {listed(self.modalities or ())} names one twice")
        return self

    @property
    def needs(self) -> Needs:
        return Needs(features=True)

    def chosen(self, features: Sequence[str]) -> tuple[str, ...]:
        return tuple(features) if self.modalities is None else self.modalities

    def check(self, features: Sequence[str], graph: GraphConfig) -> None:
        unknown = [m for m in self.modalities or () if m not in features]
        if unknown:
            raise ValueError(
                f"model.modalities: no section [features.{unknown[0]}]; there is {listed(features)}"
            )


class FeatureModelConfig(MultimodalConfig):
    """A model that is none without modalities; it reads their raw vectors."""

    def check(self, features: Sequence[str], graph: GraphConfig) -> None:
        super().check(features, graph)
        if not self.chosen(features):
            raise ValueError(
                f"model.name {self.name} needs a modality: add a section [features.*], or take a "
                "model of item ids alone"
            )
