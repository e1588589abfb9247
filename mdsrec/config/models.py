"""The sections [model]: one class per model, chosen by `model.name`."""

from collections.abc import Mapping, Sequence
from math import fsum
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Discriminator, Field, Tag, model_validator

from mdsrec.config.etl import GraphConfig
from mdsrec.config.model_base import (
    FeatureModelConfig,
    ModelConfig,
    MultimodalConfig,
    Needs,
    NetworkConfig,
    TransformerConfig,
)
from mdsrec.config.own_model import OWN, OwnModelConfig, is_own, own_section
from mdsrec.config.section import (
    Count,
    Flag,
    Fraction,
    Later,
    NonNegativeFloat,
    NotIdentity,
    Positive,
    PositiveFloat,
    listed,
)
from mdsrec.errors import InputError

PAPER_MU = 0.2


class MDSRecConfig(MultimodalConfig, TransformerConfig):
    """MDSRec. Defaults are what validated best; those of the paper are in configs/paper.toml."""

    name: Literal["mdsrec"] = "mdsrec"
    memory: NotIdentity[Flag] = True
    """Add the memory of transitions (section [transitions]) to the scores; it is not trained."""
    dropout: Fraction = 0.3
    """Dropout probability."""
    temperature: NonNegativeFloat = 0.12
    """Scores are cosines divided by this; 0 means inner products, as the paper prints them."""
    mu_id: NonNegativeFloat = 16.0
    """mu^id of Eq. 3: weight of neighbors in the smoothed id embedding."""
    mu: NonNegativeFloat | dict[str, NonNegativeFloat] = 1.0
    """mu^m of Eq. 3, of all modalities or by modality; 0 is the ablation w/o CRE. An empty section
    means 0.2, the paper's value.
    """
    num_neighbors: Count = 10
    """H, neighbors per item in each modality's graph (Eq. 4)."""
    num_centers: Positive = 32
    """k, interest centers per modality (Eq. 10)."""
    rho: dict[str, NonNegativeFloat] = Field(default={})
    """rho_m of Eq. 17, 22 and 23 by modality, with sum 1. Unset means uniform."""
    tau: PositiveFloat = 1.0
    """Temperature of the softmax over interest centers (Eq. 19)."""
    include_self: Flag = False
    """Add the item itself to its H neighbors (A_ii = 1)."""
    item_mask: Fraction = 0.4
    """Share of a sequence's items that training hides, the "operations like masking" of Eq. 8."""
    item_graph: Flag = True
    """false is the ablation w/o MRGC: features mapped to D instead of the item graph."""
    interest_centers: Flag = True
    """false is the ablation w/o ICA: no interest centers."""
    center_refresh: Later[Positive] = 1
    """Steps for which the initial centers c^0 are kept. 1 is the paper: computed and trained in
    every step, at the cost of a product with the whole item table. Above 1 they are computed every
    so many steps and give no gradient.
    """

    @property
    def reads_rows(self) -> bool:
        centers_read_all = self.interest_centers and self.item_graph
        return not centers_read_all or self.center_refresh > 1

    @property
    def needs(self) -> Needs:
        return Needs(
            cooccurrence=True,
            neighbors=self.item_graph,
            centers=self.interest_centers,
            features=not self.item_graph,
        )

    @property
    def neighbors_read(self) -> int:
        return self.num_neighbors if self.item_graph else 0

    @property
    def self_is_neighbor(self) -> bool:
        return self.include_self

    @property
    def simpler(self) -> tuple[str, str] | None:
        if self.interest_centers:
            return "no-centers", "model.interest_centers=false"
        return "ids", "model.modalities=[]"

    def channel_weights(self, modalities: Sequence[str]) -> dict[str, float]:
        return {"fused": 1.0, **{m: self.rho_of(m, len(modalities)) for m in modalities}}

    def rho_of(self, modality: str, num_modalities: int) -> float:
        """Return rho_m of one of several modalities."""
        return self.rho.get(modality, 1 / num_modalities)

    def mus(self, modality: str) -> tuple[float, ...]:
        return (self.mu.get(modality, PAPER_MU) if isinstance(self.mu, dict) else self.mu,)

    def all_num_centers(self) -> tuple[int, ...]:
        return (self.num_centers,)

    def check(self, features: Sequence[str], graph: GraphConfig) -> None:
        super().check(features, graph)
        modalities = self.chosen(features)
        if isinstance(self.mu, dict):
            _check_keys("model.mu", self.mu, modalities)
        _check_keys("model.rho", self.rho, modalities)
        total = fsum(self.rho.values())
        if self.rho and abs(total - 1) > 1e-6:
            raise ValueError(f"model.rho: the values must sum to 1; they sum to {total:g}")
        if self.num_neighbors > graph.max_neighbors:
            raise ValueError(
                f"model.num_neighbors {self.num_neighbors} exceeds "
                f"graph.max_neighbors {graph.max_neighbors}: raise graph.max_neighbors"
            )

    def check_fits(self, modality: str, num_items: int) -> None:
        """Raise InputError if H or k exceeds the number of items that have the modality."""
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


class SASRecConfig(TransformerConfig):
    """SASRec."""

    name: Literal["sasrec"] = "sasrec"


class BERT4RecConfig(TransformerConfig):
    """BERT4Rec."""

    name: Literal["bert4rec"] = "bert4rec"
    mask_share: Fraction = 0.2
    """Share of a sequence's items that training masks and predicts."""
    last_share: Fraction = 0.5
    """Share of sequences in which training masks only the last item, as ranking does."""


class GRU4RecConfig(NetworkConfig):
    """GRU4Rec."""

    name: Literal["gru4rec"] = "gru4rec"
    hidden_dim: Positive = 300
    """Width of the GRU state."""
    num_layers: Positive = 1
    """GRU layers."""


class SASRecFConfig(FeatureModelConfig, TransformerConfig):
    """SASRecF: SASRec with item features."""

    name: Literal["sasrecf"] = "sasrecf"


class GRU4RecFConfig(FeatureModelConfig):
    """GRU4RecF: GRU4Rec with item features."""

    name: Literal["gru4recf"] = "gru4recf"
    hidden_dim: Positive = 300
    """Width of the GRU state."""
    num_layers: Positive = 1
    """GRU layers."""


class FDSAConfig(FeatureModelConfig, TransformerConfig):
    """FDSA."""

    name: Literal["fdsa"] = "fdsa"


class UniSRecConfig(FeatureModelConfig, TransformerConfig):
    """UniSRec."""

    name: Literal["unisrec"] = "unisrec"
    temperature: PositiveFloat = 0.07
    """Scores are cosines divided by this."""
    num_experts: Positive = 8
    """Experts of the feature adaptor."""
    adaptor_dropout: Fraction = 0.2
    """Dropout probability in the adaptor."""


class MMMLPConfig(FeatureModelConfig):
    """MMMLP."""

    name: Literal["mmmlp"] = "mmmlp"
    num_layers: Positive = 4
    """Mixer layers."""


class MISSRecConfig(FeatureModelConfig, TransformerConfig):
    """MISSRec."""

    name: Literal["missrec"] = "missrec"
    temperature: PositiveFloat = 0.07
    """Scores are cosines divided by this."""
    num_centers: Positive = 32
    """Interests per modality: the clusters of its items."""

    @property
    def needs(self) -> Needs:
        return Needs(features=True, centers=True)

    def all_num_centers(self) -> tuple[int, ...]:
        return (self.num_centers,)

    @model_validator(mode="after")
    def _halves(self) -> Self:
        if self.num_layers % 2:
            raise ValueError(
                f"num_layers {self.num_layers} must be even: half of the layers encode, half decode"
            )
        return self


class TransitionsModelConfig(MultimodalConfig):
    """The memory of transitions, without a network: a baseline that needs no training."""

    name: Literal["transitions"] = "transitions"
    memory: Literal[True] = True
    """The memory is all that this model has."""

    @property
    def is_trained(self) -> bool:
        return False

    @property
    def needs(self) -> Needs:
        return Needs()


def _tag_of(section: Any) -> str:
    """Return the model of a section, or OWN; without a name it is MDSRec."""
    has_keys = isinstance(section, Mapping)
    name = section.get("name", "mdsrec") if has_keys else getattr(section, "name", "mdsrec")
    return OWN if is_own(str(name)) else str(name)


def sections() -> dict[str, type[ModelConfig]]:
    """Return the section class of each of our models by name."""
    union = get_args(AnyModel)[0]
    return {tag.tag: kind for kind, *_, tag in map(get_args, get_args(union)) if tag.tag != OWN}


def section_of(name: str) -> type[ModelConfig]:
    """Return the section class of a model; InputError if there is no such model."""
    if is_own(name):
        return own_section(name)
    if name not in sections():
        raise InputError(
            f"unknown model {name!r}; choose from {listed(sections())}, or give package:Class"
        )
    return sections()[name]


AnyModel = Annotated[
    Annotated[MDSRecConfig, Tag("mdsrec")]
    | Annotated[SASRecConfig, Tag("sasrec")]
    | Annotated[BERT4RecConfig, Tag("bert4rec")]
    | Annotated[GRU4RecConfig, Tag("gru4rec")]
    | Annotated[SASRecFConfig, Tag("sasrecf")]
    | Annotated[GRU4RecFConfig, Tag("gru4recf")]
    | Annotated[FDSAConfig, Tag("fdsa")]
    | Annotated[UniSRecConfig, Tag("unisrec")]
    | Annotated[MMMLPConfig, Tag("mmmlp")]
    | Annotated[MISSRecConfig, Tag("missrec")]
    | Annotated[TransitionsModelConfig, Tag("transitions")]
    | Annotated[OwnModelConfig, Tag(OWN)],
    Discriminator(_tag_of),
]


def _check_keys(key: str, values: Mapping[str, float], modalities: Sequence[str]) -> None:
    if values and set(values) != set(modalities):
        raise ValueError(
            f"{key}: the keys must be the modalities {listed(modalities)}; found {listed(values)}"
        )
