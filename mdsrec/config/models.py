"""[model]: one section a model, chosen by its `name`; a key that it does not have is an error."""

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
    TransformerConfig,
)
from mdsrec.config.section import (
    Count,
    Flag,
    Fraction,
    NonNegativeFloat,
    Positive,
    PositiveFloat,
    listed,
)
from mdsrec.errors import InputError

DEFAULT_MU = 0.2  # mu^m of every modality, as in the paper of MDSRec


class MDSRecConfig(MultimodalConfig, TransformerConfig):
    """MDSRec in the paper's letters; defaults are the paper's or the field's."""

    name: Literal["mdsrec"] = "mdsrec"
    mu_id: NonNegativeFloat = 16.0
    """mu^id of Eq. 3"""
    mu: dict[str, NonNegativeFloat] = Field(default={})
    """mu^m of Eq. 3 for each modality; absent = 0.2; 0 is the ablation w/o CRE"""
    num_neighbors: Count = 10
    """H"""
    num_centers: Positive = 32
    """k"""
    rho: dict[str, NonNegativeFloat] = Field(default={})
    """rho_m of Eq. 17, 22 and 23, summing to 1; absent = uniform"""
    tau: PositiveFloat = 1.0
    include_self: Flag = True
    """An item stands in its own list of neighbours (A_ii = 1), beside the H others."""
    item_mask: Fraction = 0.0
    """Share of the items of sequences that training hides, "operations like masking" of Eq. 8"""
    item_graph: Flag = True
    """false is the ablation w/o MRGC: modal features, mapped to D, in place of the graph's."""
    interest_centers: Flag = True
    """false is the ablation w/o ICA."""

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
    def simpler(self) -> tuple[str, str] | None:
        if self.interest_centers:
            return "no-centers", "model.interest_centers=false"
        return "ids", "model.modalities=[]"

    def mus(self, modality: str) -> tuple[float, ...]:
        return (self.mu.get(modality, DEFAULT_MU),)

    def all_num_centers(self) -> tuple[int, ...]:
        return (self.num_centers,)

    def check(self, features: Sequence[str], graph: GraphConfig) -> None:
        super().check(features, graph)
        modalities = self.chosen(features)
        _check_keys("model.mu", self.mu, modalities)
        _check_keys("model.rho", self.rho, modalities)
        total = fsum(self.rho.values())
        if self.rho and abs(total - 1) > 1e-6:
            raise ValueError(f"model.rho: the values sum to {total:g}, they must sum to 1")
        if self.num_neighbors > graph.max_neighbors:
            raise ValueError(
                f"model.num_neighbors {self.num_neighbors} exceeds "
                f"graph.max_neighbors {graph.max_neighbors}: raise graph.max_neighbors"
            )

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


class SASRecConfig(TransformerConfig):
    name: Literal["sasrec"] = "sasrec"


class BERT4RecConfig(TransformerConfig):
    name: Literal["bert4rec"] = "bert4rec"
    mask_share: Fraction = 0.2
    """Share of the items of a sequence that training hides and predicts"""
    last_share: Fraction = 0.5
    """Share of the sequences of which training hides the last item alone, as ranking does"""


class GRU4RecConfig(ModelConfig):
    name: Literal["gru4rec"] = "gru4rec"
    hidden_dim: Positive = 300
    num_layers: Positive = 1


class SASRecFConfig(FeatureModelConfig, TransformerConfig):
    name: Literal["sasrecf"] = "sasrecf"


class GRU4RecFConfig(FeatureModelConfig):
    name: Literal["gru4recf"] = "gru4recf"
    hidden_dim: Positive = 300
    num_layers: Positive = 1


class FDSAConfig(FeatureModelConfig, TransformerConfig):
    name: Literal["fdsa"] = "fdsa"


class UniSRecConfig(FeatureModelConfig, TransformerConfig):
    name: Literal["unisrec"] = "unisrec"
    temperature: PositiveFloat = 0.07
    num_experts: Positive = 8
    adaptor_dropout: Fraction = 0.2


class MMMLPConfig(FeatureModelConfig):
    name: Literal["mmmlp"] = "mmmlp"
    num_layers: Positive = 4


class MISSRecConfig(FeatureModelConfig, TransformerConfig):
    name: Literal["missrec"] = "missrec"
    temperature: PositiveFloat = 0.07
    num_centers: Positive = 32
    """Interests of each modality: the clusters of its items, as the tables hold them"""

    @property
    def needs(self) -> Needs:
        return Needs(features=True, centers=True)

    def all_num_centers(self) -> tuple[int, ...]:
        return (self.num_centers,)

    @model_validator(mode="after")
    def _halves(self) -> Self:
        if self.num_layers % 2:
            raise ValueError(
                f"num_layers {self.num_layers} is odd: half of them read interests, half the items"
            )
        return self


def _name_of(section: Any) -> str:
    """Which model a section is of; MDSRec where it says nothing."""
    if isinstance(section, Mapping):
        return str(section.get("name", "mdsrec"))
    return str(getattr(section, "name", "mdsrec"))


def sections() -> dict[str, type[ModelConfig]]:
    """The section of each model by its name."""
    union = get_args(AnyModel)[0]
    return {tag.tag: section for section, tag in map(get_args, get_args(union))}


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
    | Annotated[MISSRecConfig, Tag("missrec")],
    Discriminator(_name_of),
]


def _check_keys(key: str, values: Mapping[str, float], modalities: Sequence[str]) -> None:
    if values and set(values) != set(modalities):
        raise ValueError(
            f"{key}: keys {listed(values)} must equal the modalities {listed(modalities)}"
        )
