"""The learning rate, a function of the steps taken alone: a resumed run needs no more."""

import math

from torch.optim import Optimizer

from mdsrec.config import OptimConfig

FINAL = 0.01  # what is left of the rate when its decay has ended


def rate_factor(config: OptimConfig, step: int) -> float:
    """What `optim.lr` is multiplied by in the step that `step` others precede.

    1/w, 2/w, ... 1 in the w = `warmup_steps` first steps; then, with a decay, down to FINAL in step
    `decay_steps` and from there on.
    """
    warmup, end = config.warmup_steps, config.decay_steps
    if step < warmup:
        return (step + 1) / warmup
    if config.decay == "none":
        return 1.0
    done = min((step - warmup) / (end - warmup), 1.0)
    left = 1 - done if config.decay == "linear" else (1 + math.cos(math.pi * done)) / 2
    return FINAL + (1 - FINAL) * left


class LearningRate:
    """Holds an optimizer to the schedule; DeepSpeed calls `step` after every step taken."""

    def __init__(self, optimizer: Optimizer, config: OptimConfig) -> None:
        self.config = config
        self._rates = [(group, group["lr"]) for group in optimizer.param_groups]
        self.continue_after(0)

    def step(self) -> None:
        self.continue_after(self.steps_taken + 1)

    def continue_after(self, steps_taken: int) -> None:
        self.steps_taken = steps_taken
        for group, rate in self._rates:
            group["lr"] = rate * rate_factor(self.config, steps_taken)
