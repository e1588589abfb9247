"""Sections of training and evaluation: [optim], [train] and [eval]."""

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from mdsrec.config.section import (
    Count,
    Distinct,
    Flag,
    Later,
    Minutes,
    NonNegativeFloat,
    NotIdentity,
    PathOrUri,
    Positive,
    PositiveFloat,
    RunReference,
    Section,
)
from mdsrec.errors import InputError

USER_BATCH, ITEM_BLOCK = 256, 1024  # sizes of ranking on a CPU
GPU_USER_BATCH, GPU_ITEM_BLOCK = 2048, 65_536
BATCHES_PER_SHARD = 16  # most batches of users in one file of an evaluation
FEWEST_SHARDS = 16  # if there are as many batches, so that few users still occupy several actors


class OptimConfig(Section):
    """Adam (betas .9, .999, no weight decay)."""

    lr: PositiveFloat = 1e-3
    """Learning rate after warm-up."""
    gradient_clipping: NonNegativeFloat = 0.0
    """Largest norm of the gradient; 0 turns clipping off."""
    warmup_steps: Count = 0
    """Steps in which the learning rate rises linearly to lr."""
    decay: Literal["none", "linear", "cosine"] = "none"
    """Decay of the learning rate after warm-up, to lr / 100."""
    decay_epochs: Count = 0
    """Epoch of the run at which the decay ends."""
    decay_steps: Count = 0
    """Step of the run at which the decay ends, if not given as decay_epochs."""
    lazy_adam: Later[Flag] = False
    """Let a step change only the rows of the item table that it reads, and leave the momentum of
    the others as it is. It saves time where most of the table is not read, and is another optimizer
    than Adam.
    """

    @model_validator(mode="after")
    def _decays(self) -> Self:
        ends = {key: getattr(self, key) for key in ("decay_epochs", "decay_steps")}
        given = [key for key, value in ends.items() if value]
        if self.decay == "none" and given:
            raise ValueError(
                f'{given[0]} {ends[given[0]]} needs a decay: set decay to "linear" or "cosine"'
            )
        if self.decay != "none" and len(given) != 1:
            raise ValueError(
                f"decay {self.decay} needs decay_epochs or decay_steps, and not both: "
                f"{' and '.join(f'{key} is {value}' for key, value in ends.items())}"
            )
        if self.decay_steps and self.decay_steps <= self.warmup_steps:
            raise ValueError(
                f"decay {self.decay} needs decay_steps above warmup_steps = {self.warmup_steps}; "
                f"decay_steps is {self.decay_steps}"
            )
        return self


class TrainConfig(Section):
    """Training: batches, loss, early stopping, and the machines it runs on."""

    batch_size: Positive = 512
    """Prefixes in a global step over all workers. A step holds whole users."""
    loss: Literal["full", "sampled"] = "full"
    """Cross-entropy over all items, or over sampled negatives for very large catalogues."""
    negatives: Literal["uniform", "popularity", "in_batch"] = "uniform"
    """Negatives: uniform, in proportion to training events, or the targets of the step."""
    num_negatives: Count = 0
    """Negatives drawn per step and shared by its prefixes, for example 1000."""
    max_epochs: NotIdentity[Positive] = 100
    """Most epochs. A finished run goes on if it is raised."""
    patience: NotIdentity[Positive] = 10
    """Epochs without a better validation ndcg@10 after which training ends. A finished run goes on
    if it is raised.
    """
    untrained_items: Later[Literal["negatives", "excluded"]] = "negatives"
    """Items without a training event in the softmax of the loss: as negatives, or left out of it,
    so that they are not learned to be wrong. Ranking has all items either way.
    """
    init_from: Later[RunReference | None] = None
    """Trained run that the weights start from: a name below the same root, or the folder of a run.
    Rows of items follow their ids, other weights their names. An item that the run never trained
    starts as the mean of its nearest trained neighbors. Unset means random weights.
    """
    shuffle_window: Positive = 200_000
    """Users that are held in memory, sorted by length and cut into batches together."""
    num_workers: NotIdentity[Positive] = 1
    """Ray Train workers, one process each."""
    cpus_per_worker: NotIdentity[PositiveFloat | None] = None
    """CPUs requested from Ray per worker; rounded (at least 1) it is also torch's thread count.
    Unset means 0.9 CPUs and one thread. But if the training starts a Ray on its own machine, all
    cores but one are shared by the workers, at most 8 threads each; OMP_NUM_THREADS is then the
    number of cores to share. A worker with a GPU has at least as many threads as its node has CPUs
    per GPU.
    """
    device: NotIdentity[Literal["auto", "cpu", "gpu"]] = "auto"
    """auto uses a GPU per worker where the cluster has GPUs."""
    zero_stage: NotIdentity[Literal[0, 1, 2, 3]] = 0
    """DeepSpeed ZeRO stage: 1 shards Adam's state, 2 gradients too, 3 parameters too."""
    item_table: NotIdentity[Literal["auto", "replicated", "sharded"]] = "auto"
    """replicated holds the rows of all items on every worker, sharded only those that the worker
    owns, so that more workers hold a larger catalogue. auto shards what does not fit one device.
    """
    offload: NotIdentity[Literal["none", "optimizer", "all"]] = "none"
    """Keep Adam's state (needs ZeRO 1-3) or also the parameters (needs ZeRO 3) in host memory."""
    accumulation: NotIdentity[Positive] = 1
    """Micro-batches per worker and step. More need less memory and give the same gradient."""
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    """bf16 multiplies matrices in bfloat16, tf32 in TensorFloat-32 of a GPU; weights and Adam's
    state remain float32. Ranking always multiplies in float32.
    """
    max_failures: NotIdentity[Count] = 3
    """Most restarts after a lost worker; training ends at the next loss."""
    timeout_minutes: NotIdentity[Minutes] = 10.0
    """Minutes that a worker waits for the others before the attempt fails and is restarted."""
    checkpoint_minutes: NotIdentity[Minutes] = 30.0
    """Minutes between checkpoints inside an epoch. Every epoch ends with a checkpoint."""
    tracking: NotIdentity[Literal["mlflow", "wandb"] | None] = None
    """Tracker that gets the parameters and metrics of the run: MLflow or Weights & Biases."""

    @model_validator(mode="after")
    def _offloads(self) -> Self:
        least = {"none": 0, "optimizer": 1, "all": 3}[self.offload]
        if self.zero_stage < least:
            raise ValueError(
                f"offload {self.offload} needs zero_stage {least} or more; "
                f"zero_stage is {self.zero_stage}"
            )
        return self

    @model_validator(mode="after")
    def _shards(self) -> Self:
        if self.item_table == "sharded" and not self.can_share_items:
            raise ValueError(
                f'item_table "sharded" needs zero_stage 0, 1 or 2 and no offload; zero_stage is '
                f'{self.zero_stage}, offload is "{self.offload}"'
            )
        return self

    @model_validator(mode="after")
    def _samples(self) -> Self:
        if self.loss == "full" and self.negatives != "uniform":
            raise ValueError(f'negatives {self.negatives} needs loss "sampled"; loss is "full"')
        draws = self.loss == "sampled" and self.negatives != "in_batch"
        if draws and not self.num_negatives:
            raise ValueError(
                f"negatives {self.negatives} needs num_negatives above 0, for example 1000"
            )
        if self.num_negatives and not draws:
            raise ValueError(
                f"num_negatives {self.num_negatives} has no effect here: "
                'it needs loss "sampled" and negatives "uniform" or "popularity"'
            )
        return self

    @property
    def cpus_requested(self) -> float:
        """Return the CPUs that each worker requests from Ray."""
        return 0.9 if self.cpus_per_worker is None else self.cpus_per_worker

    @property
    def draws_by_events(self) -> bool:
        """Return whether sampling needs the number of training events of every item."""
        return self.loss == "sampled" and self.negatives != "uniform"

    @property
    def reads_num_train(self) -> bool:
        """Return whether the loss needs the number of training events of every item."""
        return self.draws_by_events or self.excludes_untrained

    @property
    def excludes_untrained(self) -> bool:
        """Return whether items without a training event leave the softmax of the loss."""
        return self.untrained_items == "excluded"

    @property
    def can_share_items(self) -> bool:
        """Return whether each worker can hold the rows of its own items only."""
        return self.zero_stage < 3 and self.offload == "none"

    def check_fits(self, num_items: int) -> None:
        """Raise InputError if `num_negatives` exceeds the number of items."""
        if self.num_negatives > num_items:
            raise InputError(
                f"train.num_negatives = {self.num_negatives}, but there are {num_items} items: "
                f"set it to {num_items} or less"
            )


class EvalConfig(Section):
    """Evaluation, which ranks every held-out event against all items."""

    cutoffs: Distinct[Positive] = Field(default=(10, 20), min_length=1)
    """Values of N in recall@N, ndcg@N and mrr@N, in any order. Charts and tests of differences
    use the smallest.
    """
    user_batch: Positive | None = None
    """Users scored together. Unset means 256 on a CPU and 2048 on a GPU."""
    item_block: Positive | None = None
    """Items scored together. Unset means 1024 on a CPU, which fits its cache, and 65536 on a GPU.
    The manifest of a run's ranks names both sizes, because they decide how scores are rounded.
    """
    exclude_seen: Flag = False
    """Leave out the items that a user had before a target when that target is ranked."""
    num_workers: Positive | None = None
    """Ray actors that rank users in parallel. Unset means as many as the cluster has GPUs, or 2
    without one.
    """
    item_shards: Positive = 1
    """Actors that share the items of one catalogue: each holds the vectors, weights and graphs of
    its own items only. `num_workers` actors form groups of so many, at least one group. Results do
    not depend on it.
    """
    pictures: PathOrUri | None = None
    """Folder of files named ITEM_ID.jpg (.png, ...), shown in reports. Unset means the folder that
    an image encoder reads, if there is one.
    """

    @property
    def users_together(self) -> int:
        """Users scored together: those of a CPU, if they are not set."""
        return self.user_batch or USER_BATCH

    @property
    def items_together(self) -> int:
        """Items scored together: those of a CPU, if they are not set."""
        return self.item_block or ITEM_BLOCK

    def users_per_shard(self, num_users: int) -> int:
        """Return the number of users whose rows are one file; one actor ranks them."""
        batches = num_users // (FEWEST_SHARDS * self.users_together)
        return self.users_together * min(max(1, batches), BATCHES_PER_SHARD)

    def sized_for(self, gpu: bool) -> Self:
        """Return the section with the sizes that are used on a GPU, or on a CPU."""
        users, items = (GPU_USER_BATCH, GPU_ITEM_BLOCK) if gpu else (USER_BATCH, ITEM_BLOCK)
        sizes = {"user_batch": self.user_batch or users, "item_block": self.item_block or items}
        return self.model_copy(update=sizes)

    @field_validator("cutoffs")
    @classmethod
    def _ascending(cls, cutoffs: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(sorted(cutoffs))
