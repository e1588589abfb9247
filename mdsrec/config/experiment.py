"""The whole configuration: one TOML file describes one experiment, and every stage reads it.

The same dotted keys (`optim.lr`) serve the file, the command line and the space of a sweep.
"""

import re
from typing import Annotated, Any, Self

from pydantic import Field, field_validator, model_validator

from mdsrec.config.etl import (
    FeatureConfig,
    FeaturesConfig,
    GraphConfig,
    SequencesConfig,
    SparkConfig,
)
from mdsrec.config.input import InputConfig
from mdsrec.config.model_base import NetworkConfig
from mdsrec.config.models import AnyModel, MDSRecConfig
from mdsrec.config.section import NotIdentity, PathOrUri, Section, Text, listed
from mdsrec.config.training import EvalConfig, OptimConfig, TrainConfig
from mdsrec.config.transitions import TransitionsConfig
from mdsrec.config.tune import TuneConfig

RESERVED_CHANNELS = ("all", "network", "memory", "seen", "popularity", "itemknn")
RESERVED_MODALITIES = ("id", "fused", *RESERVED_CHANNELS)
"""Names of the evaluator's channels."""


class Experiment(Section):
    """A whole TOML file."""

    name: Text = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=200)
    """Name of the run. Its files are written to `<root>/runs/NAME/`."""
    root: NotIdentity[PathOrUri]
    """Folder or URI that holds everything: tables below `dataset/`, runs below `runs/`."""
    seed: Annotated[int, Field(strict=True, ge=0, lt=2**32)] = 0
    """Seed of the initial weights and of all random numbers of training."""
    input: NotIdentity[InputConfig]
    sequences: SequencesConfig = SequencesConfig()
    features: FeaturesConfig = FeaturesConfig()
    graph: GraphConfig = GraphConfig()
    transitions: NotIdentity[TransitionsConfig] = TransitionsConfig()
    spark: NotIdentity[SparkConfig] = SparkConfig()
    model: AnyModel = MDSRecConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    eval: NotIdentity[EvalConfig] = EvalConfig()
    tune: NotIdentity[TuneConfig] = TuneConfig()
    study: NotIdentity[dict[str, dict[str, Any]]] = Field(default={})
    """Overrides by model name, which `mdsrec study` applies to the runs of that model."""

    @field_validator("root")
    @classmethod
    def _without_slash(cls, root: str) -> str:
        return root.rstrip("/") or "/"

    @field_validator("features")
    @classmethod
    def _names(cls, features: FeaturesConfig) -> FeaturesConfig:
        for name in features:
            if name in RESERVED_MODALITIES or not re.fullmatch("[A-Za-z][A-Za-z0-9_-]*", name):
                raise ValueError(
                    f"{name!r} cannot name a modality: use a letter, then letters, digits, _ or -; "
                    f"the names {listed(RESERVED_MODALITIES)} are reserved"
                )
        return features

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len({f.fields for f in self.features.values() if f.sees == "text"}) > 1:
            raise ValueError(
                "features: set the same `fields` for every text encoder, because all of them read "
                "items.text"
            )
        self._check_features()
        self._check_training()
        self.model.check(tuple(self.features), self.graph)
        self._check_space()
        if self.optim.lazy_adam and not self.steps_by_rows:
            raise ValueError(
                "optim.lazy_adam needs steps that read single rows of the item table: set "
                'train.loss = "sampled", model.interest_centers = false or model.center_refresh '
                "above 1, no optim.gradient_clipping, and no train.offload"
            )
        if self.train.item_table == "sharded" and not self.can_share_items:
            raise ValueError(
                f'train.item_table "sharded" cannot serve model.name = "{self.model.name}": only '
                'trained models of this project: set train.item_table = "auto"'
            )
        if self.eval.item_shards > 1 and ":" in self.model.name:
            raise ValueError(
                f"eval.item_shards {self.eval.item_shards} cannot serve model.name = "
                f'"{self.model.name}", which may read its parameters in any way: '
                "set eval.item_shards = 1"
            )
        wanted, stored = self.transitions.num_neighbors, self.graph.max_neighbors
        if self.memory_modalities and wanted > stored:
            raise ValueError(
                f"transitions.num_neighbors {wanted} exceeds graph.max_neighbors {stored}: raise "
                "graph.max_neighbors or lower transitions.num_neighbors"
            )
        return self

    def _check_features(self) -> None:
        """Raise ValueError if a feature needs the other format of the input."""
        is_table = self.input.format == "table"
        for name, config in self.features.items():
            if config.column is not None and not self.input.names("items"):
                raise ValueError(
                    f'features.{name}.column needs input.format = "table" and input.items'
                )
            if is_table and config.fields != FeatureConfig.model_fields["fields"].default:
                raise ValueError(
                    f"features.{name}.fields names fields of the Amazon metadata: list the columns "
                    "of your table in input.columns.text"
                )
            if is_table and config.images == "url" and not self.input.names("items"):
                raise ValueError(f'features.{name}.images = "url" needs input.items')

    def _check_training(self) -> None:
        """Raise ValueError if keys of the training do not suit the model, or its start the run."""
        source = self.train.init_from
        needs_weights = {"init_from": source, "untrained_items": self.train.excludes_untrained}
        given = [key for key, value in needs_weights.items() if value]
        if given and not self.model.is_trained:
            raise ValueError(
                f'train.{given[0]} needs a model with weights; model.name is "{self.model.name}"'
            )
        if source in (self.name, f"{self.root}/runs/{self.name}"):
            raise ValueError(
                f"train.init_from {source} is this run itself: choose another name for it"
            )

    def _check_space(self) -> None:
        """Raise ValueError if a sweep searches keys that its trials are not compared by."""
        for key in self.tune.space:
            if key.startswith("transitions.") and self.model.is_trained:
                raise ValueError(
                    f"tune.space.{key}: trials are compared by the network's validation, which no "
                    'transitions change: search them with model.name = "transitions"'
                )

    @property
    def network(self) -> NetworkConfig:
        """Return [model] of a model that has a network."""
        assert isinstance(self.model, NetworkConfig)
        return self.model

    @property
    def modalities(self) -> tuple[str, ...]:
        """Return M: the modalities that the model uses, in the order of the configuration."""
        return self.model.chosen(tuple(self.features))

    @property
    def neighbor_modalities(self) -> tuple[str, ...]:
        """Return the modalities that have neighbors for the model."""
        return tuple(m for m in self.modalities if self.model.mus(m))

    @property
    def nearest_read(self) -> int:
        """Return how many neighbors of an item the model reads, or all if it reads none."""
        return self.model.neighbors_read or self.graph.max_neighbors

    @property
    def memory_modalities(self) -> tuple[str, ...]:
        """Return the modalities over whose neighbors the memory is spread."""
        spread = self.model.memory and self.transitions.num_neighbors > 0
        return self.modalities if spread else ()

    @property
    def steps_by_rows(self) -> bool:
        """Return whether the gradient of the item table travels as rows, outside of DeepSpeed."""
        train, clips = self.train, self.optim.gradient_clipping > 0
        sampled = train.loss == "sampled" and train.offload == "none"
        return self.model.is_trained and sampled and not clips and self.network.reads_rows

    @property
    def can_share_items(self) -> bool:
        """Return whether each worker can hold the rows of its own items only."""
        is_ours = self.model.is_trained and ":" not in self.model.name
        return is_ours and self.train.can_share_items

    def sized_for(self, gpu: bool) -> Self:
        """Return the experiment with the sizes of ranking on a GPU, or on a CPU."""
        return self.model_copy(update={"eval": self.eval.sized_for(gpu)})

    def mus(self, modality: str) -> tuple[float, ...]:
        """Return every mu^m that neighbors are built for, the model's first."""
        of_memory = [self.transitions.mu] if modality in self.memory_modalities else []
        return tuple(dict.fromkeys([*self.model.mus(modality), *of_memory, *self.graph.mu]))

    def all_num_centers(self) -> tuple[int, ...]:
        """Return every k that items are clustered for, the model's first."""
        return tuple(dict.fromkeys([*self.model.all_num_centers(), *self.graph.num_centers]))

    def of_category(self, name: str) -> Self:
        """Return the experiment on one category only, below a root of its own."""
        update = {"root": f"{self.root}/{name}", "input": self.input.of_category(name)}
        return self.model_copy(update=update)

    def identity(self) -> dict[str, Any]:
        """Return what decides a run: without training, that is how transitions are counted."""
        counted = {} if self.model.is_trained else {"transitions": self.transitions.identity()}
        return super().identity() | counted

    def resolved(self) -> dict[str, Any]:
        """Return every key with its value, as JSON can hold it."""
        return self.model_dump(mode="json")
