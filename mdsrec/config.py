"""One TOML file = one experiment; every stage reads the same file.

Sections are typed and frozen. Dotted overrides (`optim.lr=3e-4`) serve the command line and a
sweep's space alike. An unknown key is an error that names the nearest key there is.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from mdsrec.errors import InputError

Fraction = Annotated[float, Field(strict=True, ge=0, lt=1)]
Positive = Annotated[int, Field(strict=True, ge=1, lt=2**31)]
PositiveFloat = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
Flag = Annotated[bool, Field(strict=True)]
Text = Annotated[str, BeforeValidator(lambda v: str(v) if type(v) is int else v)]

RESERVED_MODALITIES = ("id", "all", "fused", "popularity")  # channels of the evaluator
DEFAULT_MU = 0.2  # mu^m of every modality, as in the paper


def absolute(path: str) -> str:
    """A local path made absolute against the working directory; a URI as it is."""
    if not path.strip():
        raise ValueError("the path is empty")
    return path if "://" in path else str(Path(path).expanduser().absolute())


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class InputConfig(Section):
    """Raw files of the publisher, in this order: paths or URIs of files (plain, .gz) or folders."""

    edition: Annotated[Literal["2014", "2018", "2023"], BeforeValidator(str)]
    reviews: tuple[str, ...] = Field(min_length=1)
    metadata: tuple[str, ...] = ()

    @field_validator("reviews", "metadata")
    @classmethod
    def _absolute(cls, paths: tuple[str, ...]) -> tuple[str, ...]:
        found = tuple(absolute(path) for path in paths)
        twice = [path for path in found if found.count(path) > 1]
        if twice:
            raise ValueError(f"{twice[0]} stands in the list twice")
        return found


class SequencesConfig(Section):
    k_core: Positive = 5
    """Users and items keep at least this many events, to the fixed point; 1 keeps all."""
    repeats: Literal["first", "last", "keep"] = "first"
    """Which event of a repeated (user, item) pair stays."""


class FeatureConfig(Section):
    """One modality: encoded from the items' text, or brought as vectors."""

    encoder: str | None = None
    """A sentence-transformers model: name, local folder, or an installed package that carries one.
    """
    fields: tuple[Literal["title", "features", "description", "categories", "brand"], ...] = Field(
        default=("title", "features", "description"), min_length=1
    )
    """What the encoder sees, joined in this order."""
    max_tokens: Positive | None = None
    """Tokens after which the encoder cuts a text; none = the model's own limit."""
    vectors: str | None = None
    """Parquet with columns asin, vector; or .npy with one row for each line of `asins`."""
    asins: str | None = None

    @field_validator("vectors", "asins")
    @classmethod
    def _absolute(cls, path: str | None) -> str | None:
        return None if path is None else absolute(path)

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.encoder is None) == (self.vectors is None):
            raise ValueError("set either encoder or vectors")
        if self.vectors and self.vectors.endswith(".npy") != (self.asins is not None):
            raise ValueError("asins goes with .npy vectors, one asin a line")
        return self


class GraphConfig(Section):
    """How item graphs are built (Eq. 1-5)."""

    max_neighbors: Positive = 50
    """H_max: neighbours stored for an item. Any H up to it is a prefix, so H is the model's to
    choose.
    """
    normalize: Literal["row", "symmetric", "none"] = "row"
    """N(O) in Eq. 3; none is the paper's letter."""
    distance: Flag = True
    """Eq. 1 divides by the distance of two events; false is the ablation w/o DIS."""


class SparkConfig(Section):
    master: str = "local[*]"
    driver_memory: str = "4g"
    partitions: Positive | None = None
    """Partitions of a shuffle; none = four a core."""
    rows_per_file: Positive = 500_000
    settings: dict[str, str] = Field(default={}, exclude=True)
    """Any further Spark property; never written down, it may hold a store's credentials."""


class ModelConfig(Section):
    """MDSRec in the paper's letters; defaults are the paper's or the field's."""

    modalities: tuple[str, ...] | None = None
    """Modalities the model uses; none = every [features.*]; [] = item ids alone."""
    dim: Positive = 300
    """D"""
    num_layers: Positive = 2
    """L"""
    num_heads: Positive = 2
    inner_dim: Positive = 256
    dropout: Fraction = 0.5
    max_length: Annotated[int, Field(strict=True, ge=2, lt=2**31)] = 50
    mu_id: NonNegativeFloat = 16.0
    """mu^id of Eq. 3"""
    mu: dict[str, NonNegativeFloat] = {}
    """mu^m of Eq. 3 for each modality; absent = 0.2; 0 is the ablation w/o CRE"""
    num_neighbors: Annotated[int, Field(strict=True, ge=0, lt=2**31)] = 10
    """H"""
    num_centers: Positive = 32
    """k"""
    rho: dict[str, NonNegativeFloat] = {}
    """rho_m of Eq. 17, 22 and 23, summing to 1; absent = uniform"""
    tau: PositiveFloat = 1.0
    include_self: Flag = True
    """An item stands in its own list of neighbours (A_ii = 1), beside the H others."""
    graph_weight: Literal["sum", "mean"] = "sum"
    """Eq. 6 over an item's neighbours"""
    center_weight: Literal["mean", "sum"] = "mean"
    """Eq. 11 over a centre's members"""
    item_graph: Flag = True
    """false is the ablation w/o MRGC: modal features, mapped to D, in place of the graph's."""
    interest_centers: Flag = True
    """false is the ablation w/o ICA."""

    @model_validator(mode="after")
    def _shapes(self) -> Self:
        if self.dim % self.num_heads:
            raise ValueError(f"dim {self.dim} is not a multiple of num_heads {self.num_heads}")
        if len(set(self.modalities or ())) < len(self.modalities or ()):
            raise ValueError(f"modalities {_listed(self.modalities or ())} names one twice")
        return self

    def check_fits(self, modality: str, num_items: int) -> None:
        """InputError if H or k asks for more than the `num_items` items that have the modality."""
        if self.item_graph and self.num_neighbors >= num_items:
            raise InputError(
                f"model.num_neighbors = {self.num_neighbors}, but {num_items} items have the "
                f"modality {modality}: set it to {num_items - 1} or less"
            )
        if self.interest_centers and self.num_centers > num_items:
            raise InputError(
                f"model.num_centers = {self.num_centers}, but {num_items} items have the "
                f"modality {modality}: set it to {num_items} or less"
            )


class OptimConfig(Section):
    """Adam (betas .9, .999, no weight decay)."""

    lr: PositiveFloat = 3e-4
    gradient_clipping: NonNegativeFloat = 0.0
    """Norm to clip at; 0 = off"""


class TrainConfig(Section):
    batch_size: Positive = 512
    """Prefixes in a global step, made of whole users"""
    max_epochs: Positive = 100
    patience: Positive = 10
    """Epochs without a better validation ndcg@10 before training ends"""
    shuffle_window: Positive = 200_000
    """Users held, sorted by length and cut into batches at a time"""
    num_workers: Positive = 1
    cpus_per_worker: PositiveFloat = 0.9
    device: Literal["auto", "cpu", "gpu"] = "auto"
    zero_stage: Literal[0, 1, 2, 3] = 0
    max_failures: Annotated[int, Field(strict=True, ge=0, lt=2**31)] = 3
    """Worker failures that training survives by going on from its last checkpoint"""


class EvalConfig(Section):
    cutoffs: tuple[Positive, ...] = Field(default=(10, 20), min_length=1)
    """N of recall@N and ndcg@N"""
    user_batch: Positive = 256
    item_block: Positive = 8192
    num_workers: Positive = 2


class Experiment(Section):
    """A whole TOML. `name` is the run's identity under `<root>/runs/`; tables stand under
    `<root>/dataset/`.
    """

    name: Text = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    root: str
    seed: Annotated[int, Field(strict=True, ge=0, lt=2**32)] = 0
    input: InputConfig
    sequences: SequencesConfig = SequencesConfig()
    features: dict[str, FeatureConfig] = {}
    graph: GraphConfig = GraphConfig()
    spark: SparkConfig = SparkConfig()
    model: ModelConfig = ModelConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    eval: EvalConfig = EvalConfig()

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
                    f"and none of {_listed(RESERVED_MODALITIES)}"
                )
        return features

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len({f.fields for f in self.features.values() if f.encoder}) > 1:
            raise ValueError(
                "features: every encoder reads items.text, so their fields must be equal"
            )
        unknown = [m for m in self.model.modalities or () if m not in self.features]
        if unknown:
            raise ValueError(
                f"model.modalities: no section [features.{unknown[0]}]; "
                f"there is {_listed(self.features)}"
            )
        _check_keys("model.mu", self.model.mu, self.modalities)
        _check_keys("model.rho", self.model.rho, self.modalities)
        total = math.fsum(self.model.rho.values())
        if self.model.rho and abs(total - 1) > 1e-6:
            raise ValueError(f"model.rho: the values sum to {total:g}, they must sum to 1")
        if self.model.num_neighbors > self.graph.max_neighbors:
            raise ValueError(
                f"model.num_neighbors {self.model.num_neighbors} exceeds "
                f"graph.max_neighbors {self.graph.max_neighbors}: raise graph.max_neighbors"
            )
        return self

    @property
    def modalities(self) -> tuple[str, ...]:
        """M, in the order of the configuration."""
        chosen = self.model.modalities
        return tuple(self.features) if chosen is None else chosen

    def mu(self, modality: str) -> float:
        return self.model.mu.get(modality, DEFAULT_MU)

    def rho(self, modality: str) -> float:
        return self.model.rho.get(modality, 1 / max(len(self.modalities), 1))

    def resolved(self) -> dict[str, Any]:
        """Every key with its value, as JSON can hold it."""
        return self.model_dump(mode="json")

    def identity(self) -> dict[str, Any]:
        """What makes a run this run: `resolved` without machines and places.

        The data's identity is that of its tables, wherever they and the raw files lie.
        """
        kept = self.resolved()
        for key in ("root", "input", "spark", "eval"):
            del kept[key]
        for feature in kept["features"].values():
            del feature["vectors"], feature["asins"]
        for key in ("num_workers", "cpus_per_worker", "device", "max_failures"):
            del kept["train"][key]
        return kept


def _listed(keys: Iterable[str]) -> str:
    return "[" + ", ".join(keys) + "]"


def _check_keys(key: str, values: Mapping[str, float], modalities: Sequence[str]) -> None:
    if values and set(values) != set(modalities):
        raise ValueError(
            f"{key}: keys {_listed(values)} must equal the modalities {_listed(modalities)}"
        )
