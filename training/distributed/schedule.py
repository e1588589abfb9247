"""The learning rate as a function of the number of optimizer steps taken."""

import math
from functools import partial

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from mdsrec.config import OptimConfig

FINAL = 0.01  # factor at the end of the decay


def rate_factor(config: OptimConfig, step: int) -> float:
    """Return the factor on `optim.lr` in the optimizer step after `step` others.

    It is 1/w, 2/w, ... 1 in the first w = `warmup_steps` steps. With a decay it then falls to FINAL
    in step `decay_steps` and stays there.
    """
    warmup, end = config.warmup_steps, config.decay_steps
    if step < warmup:
        return (step + 1) / warmup
    if config.decay == "none":
        return 1.0
    done = min((step - warmup) / (end - warmup), 1.0)
    left = 1 - done if config.decay == "linear" else (1 + math.cos(math.pi * done)) / 2
    return FINAL + (1 - FINAL) * left


def schedule_of(optimizer: Optimizer, config: OptimConfig) -> LambdaLR:
    """Return the schedule that sets the optimizer's rates; DeepSpeed calls its `step`."""
    return LambdaLR(optimizer, partial(rate_factor, config))


def schedule_after(schedule: LambdaLR, steps: int) -> LambdaLR:
    """Return the same schedule for an optimizer that has taken so many steps.

    It is a new object: a LambdaLR that steps before its optimizer does raises a warning.
    """
    return LambdaLR(schedule.optimizer, schedule.lr_lambdas, last_epoch=steps - 1)
