"""Base classes of the sections [model]: shared keys, and the item tables that each model reads."""

from collections.abc import Sequence
from typing import Annotated, NamedTuple, Self

from pydantic import Field, model_validator

from mdsrec.config.etl import GraphConfig
from mdsrec.config.section import (
    Distinct,
    Flag,
    Fraction,
    NonNegativeFloat,
    NotIdentity,
    Positive,
    Section,
    listed,
)


class Needs(NamedTuple):
    """The tables that a model reads beside the sequences."""

    cooccurrence: bool = False  # N(O)
    neighbors: bool = False  # of each modality, as the next three
    centers: bool = False
    features: bool = False


class ModelConfig(Section):
    """Keys that every model has."""

    name: str
    """Model to train."""
    memory: NotIdentity[Flag] = False
    """Add the memory of transitions (section [transitions]) to the scores; it is not trained."""

    @property
    def is_trained(self) -> bool:
        """Return whether the model has weights to train."""
        return True

    @property
    def needs(self) -> Needs:
        """Return the tables to load."""
        return Needs()

    @property
    def neighbors_read(self) -> int:
        """Return the number of neighbors read per item and modality."""
        return 0

    @property
    def self_is_neighbor(self) -> bool:
        """Return whether each item is also its own neighbor (A_ii = 1)."""
        return False

    @property
    def simpler(self) -> tuple[str, str] | None:
        """Return a name and an override for this model with one part removed, as an ablation."""
        return None

    def chosen(self, features: Sequence[str]) -> tuple[str, ...]:
        """Return the modalities used, of those with a section [features.NAME]."""
        return ()

    def mus(self, modality: str) -> tuple[float, ...]:
        """Return every mu^m that neighbors are built for."""
        return ()

    def all_num_centers(self) -> tuple[int, ...]:
        """Return every k that items are clustered for."""
        return ()

    def check(self, features: Sequence[str], graph: GraphConfig) -> None:
        """Raise ValueError if the section contradicts [features.NAME] or [graph]."""

    def check_fits(self, modality: str, num_items: int) -> None:
        """Raise InputError if only `num_items` items have the modality and the model needs more."""


class NetworkConfig(ModelConfig):
    """Keys of models with a network, which are all but `transitions`."""

    dim: Positive = 300
    """D, the width of item and user vectors."""
    dropout: Fraction = 0.5
    """Dropout probability."""
    max_length: Annotated[int, Field(strict=True, ge=2, lt=2**31)] = 50
    """Most events of a history that the model sees."""
    temperature: NonNegativeFloat = 0.0
    """Scores are cosines divided by this; 0 means inner products."""

    @property
    def reads_rows(self) -> bool:
        """Return whether a step of the sampled loss reads only single rows of the item table.

        A model of the user's own may read its parameters in any way.
        """
        return ":" not in self.name

    def channel_weights(self, modalities: Sequence[str]) -> dict[str, float]:
        """Return the weight of each channel of the model in its score, by name."""
        return {"fused": 1.0}

    @property
    def scores_cosines(self) -> bool:
        """Return whether scores are cosines and not inner products."""
        return self.temperature > 0


class TransformerConfig(NetworkConfig):
    """Keys of models with transformer blocks."""

    num_layers: Positive = 2
    """L, the number of transformer blocks."""
    num_heads: Positive = 2
    """Attention heads; dim must be a multiple of it."""
    inner_dim: Positive = 256
    """Width of the feed-forward layers."""

    @model_validator(mode="after")
    def _heads(self) -> Self:
        if self.dim % self.num_heads:
            raise ValueError(f"dim {self.dim} is not a multiple of num_heads {self.num_heads}")
        return self


class MultimodalConfig(ModelConfig):
    """Keys of models that use modalities."""

    modalities: Distinct[str] | None = None
    """Modalities to use. Unset means every [features.NAME]; [] means item ids only."""

    @property
    def needs(self) -> Needs:
        return Needs(features=True)

    def chosen(self, features: Sequence[str]) -> tuple[str, ...]:
        return tuple(features) if self.modalities is None else self.modalities

    def check(self, features: Sequence[str], graph: GraphConfig) -> None:
        unknown = [m for m in self.modalities or () if m not in features]
        if unknown:
            raise ValueError(
                f"model.modalities: there is no section [features.{unknown[0]}]; "
                f"choose from {listed(features)}"
            )


class FeatureModelConfig(MultimodalConfig, NetworkConfig):
    """Keys of models that read raw feature vectors and need at least one modality."""

    def check(self, features: Sequence[str], graph: GraphConfig) -> None:
        super().check(features, graph)
        if not self.chosen(features):
            raise ValueError(
                f"model.name {self.name} needs a modality: add a section [features.NAME], or "
                "choose a model of item ids, as sasrec"
            )
