"""One TOML file = one experiment; every stage reads the same file.

Sections are typed and frozen. Dotted overrides (`optim.lr=3e-4`) serve the command line and a
sweep's space alike. An unknown key is an error that names the nearest key there is.
"""

import re
from typing import Annotated, Any, Self

from pydantic import Field, field_validator, model_validator

from mdsrec.config.etl import FeatureConfig, GraphConfig, InputConfig, SequencesConfig, SparkConfig
from mdsrec.config.models import AnyModel, MDSRecConfig
from mdsrec.config.section import Section, Text, absolute, listed
from mdsrec.config.training import EvalConfig, OptimConfig, TrainConfig
from mdsrec.config.tune import TuneConfig

RESERVED_MODALITIES = ("id", "all", "fused", "popularity")  # channels of the evaluator


class Experiment(Section):
    """A whole TOML. `name` is the run's identity under `<root>/runs/`; tables stand under
    `<root>/dataset/`.
    """

    name: Text = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    root: str
    seed: Annotated[int, Field(strict=True, ge=0, lt=2**32)] = 0
    input: InputConfig
    sequences: SequencesConfig = SequencesConfig()
    features: dict[str, FeatureConfig] = Field(default={})
    graph: GraphConfig = GraphConfig()
    spark: SparkConfig = SparkConfig()
    model: AnyModel = MDSRecConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    eval: EvalConfig = EvalConfig()
    tune: TuneConfig = TuneConfig()
    study: dict[str, dict[str, Any]] = Field(default={})
    """By model, what `python -m tuning study` lays over this file for its runs"""

    @field_validator("root")
    @classmethod
    def _absolute(cls, root: str) -> str:
        return absolute(root).rstrip("/") or "/"

    @field_validator("features")
    @classmethod
    def _names(cls, features: dict[str, FeatureConfig]) -> dict[str, FeatureConfig]:
        for name in features:
            if name in RESERVED_MODALITIES or not re.fullmatch("[A-Za-z][A-Za-z0-9_-]*", name):
                raise ValueError(
                    f"{name!r} cannot name a modality: a letter, then letters, digits, _ or -, "
                    f"and none of {listed(RESERVED_MODALITIES)}"
                )
        return features

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len({f.fields for f in self.features.values() if f.sees == "text"}) > 1:
            raise ValueError(
                "features: every text encoder reads items.text, so their fields must be equal"
            )
        self.model.check(tuple(self.features), self.graph)
        return self

    @property
    def modalities(self) -> tuple[str, ...]:
        """M, in the order of the configuration."""
        return self.model.chosen(tuple(self.features))

    @property
    def mdsrec(self) -> MDSRecConfig:
        """[model], where that is MDSRec's."""
        assert isinstance(self.model, MDSRecConfig)
        return self.model

    def mu(self, modality: str) -> float:
        return self.mdsrec.mus(modality)[0]

    def mus(self, modality: str) -> tuple[float, ...]:
        """Every mu^m that neighbours are built for, the model's first."""
        return tuple(dict.fromkeys([*self.model.mus(modality), *self.graph.mu]))

    def all_num_centers(self) -> tuple[int, ...]:
        """Every k that is clustered, the model's first."""
        return tuple(dict.fromkeys([*self.model.all_num_centers(), *self.graph.num_centers]))

    def rho(self, modality: str) -> float:
        return self.mdsrec.rho.get(modality, 1 / max(len(self.modalities), 1))

    def resolved(self) -> dict[str, Any]:
        """Every key with its value, as JSON can hold it."""
        return self.model_dump(mode="json")

    def identity(self) -> dict[str, Any]:
        """What makes a run this run: `resolved` without machines and places.

        The data's identity is that of its tables, wherever they and the raw files lie.
        """
        kept = self.resolved()
        for key in ("root", "input", "spark", "eval", "tune", "study"):
            del kept[key]
        for feature in kept["features"].values():
            for key in ("vectors", "asins", "images", "timeout", "retries", "requests_per_second"):
                del feature[key]
        for key in ("mu", "num_centers", "max_overlap"):
            del kept["graph"][key]
        for key in (
            "num_workers",
            "cpus_per_worker",
            "device",
            "zero_stage",
            "offload",
            "accumulation",
            "max_failures",
            "timeout_minutes",
            "checkpoint_minutes",
        ):
            del kept["train"][key]
        return kept
