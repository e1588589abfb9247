"""The learning rate as a function of the number of optimizer steps taken."""

import math
from functools import partial

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from mdsrec import tables
from mdsrec.config import Experiment, OptimConfig

FINAL = 0.01  # factor at the end of the decay


def decay_end(experiment: Experiment) -> int:
    """Return the step at which the decay ends, for epochs of prefixes / batch_size steps."""
    config = experiment.optim
    if not config.decay_epochs:
        return config.decay_steps
    uri = tables.table_uri(experiment.root, "sequences")
    num_prefixes: int = tables.open_table(uri).counters["prefixes"]
    steps_per_epoch = math.ceil(num_prefixes / experiment.train.batch_size)
    return max(config.decay_epochs * steps_per_epoch, config.warmup_steps + 1)


def rate_factor(config: OptimConfig, end: int, step: int) -> float:
    """Return the factor on `optim.lr` in the optimizer step after `step` others.

    It is 1/w, 2/w, ... 1 in the first w = `warmup_steps` steps. With a decay it then falls to FINAL
    in step `end` and stays there.
    """
    warmup = config.warmup_steps
    if step < warmup:
        return (step + 1) / warmup
    if config.decay == "none":
        return 1.0
    done = min((step - warmup) / (end - warmup), 1.0)
    left = 1 - done if config.decay == "linear" else (1 + math.cos(math.pi * done)) / 2
    return FINAL + (1 - FINAL) * left


def schedule_of(optimizer: Optimizer, config: OptimConfig, end: int) -> LambdaLR:
    """Return the schedule that sets the optimizer's rates; DeepSpeed calls its `step`."""
    return LambdaLR(optimizer, partial(rate_factor, config, end))


def schedule_after(schedule: LambdaLR, steps: int) -> LambdaLR:
    """Return the same schedule for an optimizer that has taken so many steps.

    It is a new object: a LambdaLR that steps before its optimizer does raises a warning.
    """
    return LambdaLR(schedule.optimizer, schedule.lr_lambdas, last_epoch=steps - 1)
