"""Sections that say how a model is trained and judged: [optim], [train], [eval]."""

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from mdsrec.config.section import (
    Count,
    Flag,
    NonNegativeFloat,
    Positive,
    PositiveFloat,
    Section,
    absolute,
)
from mdsrec.errors import InputError


class OptimConfig(Section):
    """Adam (betas .9, .999, no weight decay)."""

    lr: PositiveFloat = 3e-4
    gradient_clipping: NonNegativeFloat = 0.0
    """Norm to clip at; 0 = off"""
    warmup_steps: Count = 0
    """Steps in which the rate rises to lr"""
    decay: Literal["none", "linear", "cosine"] = "none"
    """How the rate falls after them, to lr / 100 in step decay_steps of the run"""
    decay_steps: Count = 0

    @model_validator(mode="after")
    def _decays(self) -> Self:
        if self.decay != "none" and self.decay_steps <= self.warmup_steps:
            raise ValueError(
                f"decay {self.decay} needs decay_steps above warmup_steps, {self.warmup_steps}; "
                f"it is {self.decay_steps}"
            )
        if self.decay == "none" and self.decay_steps:
            raise ValueError(
                f'decay_steps {self.decay_steps} needs a decay: set decay to "linear" or "cosine"'
            )
        return self


class TrainConfig(Section):
    batch_size: Positive = 512
    """Prefixes in a global step, made of whole users"""
    loss: Literal["full", "sampled"] = "full"
    """Cross-entropy over all items, or over sampled negatives, for catalogues too large for that"""
    negatives: Literal["uniform", "popularity", "in_batch"] = "uniform"
    """How sampled negatives are drawn: by training events (popularity), or the step's targets"""
    num_negatives: Count = 0
    """Drawn for a step, shared by its prefixes; say 1000"""
    max_epochs: Positive = 100
    patience: Positive = 10
    """Epochs without a better validation ndcg@10 before training ends"""
    shuffle_window: Positive = 200_000
    """Users held, sorted by length and cut into batches at a time"""
    num_workers: Positive = 1
    cpus_per_worker: PositiveFloat = 0.9
    """What a worker asks Ray for; rounded, its threads, one at least"""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    zero_stage: Literal[0, 1, 2, 3] = 0
    offload: Literal["none", "optimizer", "all"] = "none"
    """What waits in the host's memory: Adam's state (ZeRO 1-3), or the parameters too (3)"""
    accumulation: Positive = 1
    """Parts that a worker cuts its share of a step into, computed one after the other"""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16 multiplies matrices in bfloat16; weights and Adam's state stay in float32."""
    max_failures: Count = 3
    """Worker failures that training survives by going on from its last checkpoint"""
    timeout_minutes: PositiveFloat = 10.0
    """Minutes that a worker waits for the others before the attempt fails and starts again"""
    checkpoint_minutes: PositiveFloat = 30.0
    """Minutes between checkpoints inside an epoch; each epoch ends with one."""

    @model_validator(mode="after")
    def _offloads(self) -> Self:
        least = {"none": 0, "optimizer": 1, "all": 3}[self.offload]
        if self.zero_stage < least:
            raise ValueError(
                f"offload {self.offload} needs zero_stage {least} or more; it is {self.zero_stage}"
            )
        return self

    @model_validator(mode="after")
    def _samples(self) -> Self:
        if self.loss == "full" and self.negatives != "uniform":
            raise ValueError(f'negatives {self.negatives} needs loss "sampled"; it is "full"')
        draws = self.loss == "sampled" and self.negatives != "in_batch"
        if draws and not self.num_negatives:
            raise ValueError(
                f"negatives {self.negatives} needs num_negatives above 0: set it to 1000, say"
            )
        if self.num_negatives and not draws:
            raise ValueError(
                f"num_negatives {self.num_negatives} draws nothing: "
                'it needs loss "sampled" and negatives "uniform" or "popularity"'
            )
        return self

    @property
    def draws_by_events(self) -> bool:
        """Whether negatives need the items' counts of training events."""
        return self.loss == "sampled" and self.negatives != "uniform"

    def check_fits(self, num_items: int) -> None:
        """InputError if more negatives are asked for than there are items."""
        if self.num_negatives > num_items:
            raise InputError(
                f"train.num_negatives = {self.num_negatives}, but there are {num_items} items: "
                f"set it to {num_items} or less"
            )


class EvalConfig(Section):
    cutoffs: tuple[Positive, ...] = Field(default=(10, 20), min_length=1)
    """N of recall@N and ndcg@N"""
    user_batch: Positive = 256
    item_block: Positive = 1024
    """Items scored together; what a CPU's cache holds. A GPU is quicker with more, say 65,536."""
    exclude_seen: Flag = False
    """Items that a user had before a target do not compete with it."""
    num_workers: Positive = 2
    pictures: str | None = None
    """A folder of files named ASIN.jpg (.png, ...) that reports show items by; none = the folder
    that an image encoder reads, if there is one.
    """

    @field_validator("pictures")
    @classmethod
    def _absolute(cls, path: str | None) -> str | None:
        return None if path is None else absolute(path)
