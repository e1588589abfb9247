"""Sections that say how a model is made and judged: [model], [optim], [train], [eval]."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from mdsrec.errors import InputError
from mdsrec.section import (
    Count,
    Flag,
    Fraction,
    NonNegativeFloat,
    Positive,
    PositiveFloat,
    Section,
    listed,
)


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
            raise ValueError(f"modalities {listed(self.modalities or ())} names one twice")
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
    max_failures: Count = 3
    """Worker failures that training survives by going on from its last checkpoint"""
    checkpoint_minutes: PositiveFloat = 30.0
    """Minutes between checkpoints inside an epoch; each epoch ends with one."""


class EvalConfig(Section):
    cutoffs: tuple[Positive, ...] = Field(default=(10, 20), min_length=1)
    """N of recall@N and ndcg@N"""
    user_batch: Positive = 256
    item_block: Positive = 8192
    num_workers: Positive = 2
