"""A training in this process whose reports are recorded."""

from typing import Any

import torch

from mdsrec.config.loading import experiment_from
from training.loop import train
from training.reporting import Reporter

CPU = torch.device("cpu")


class EpochRecorder(Reporter):
    """A reporter that keeps the figures of each epoch, and those within epochs."""

    def __init__(self) -> None:
        self.epochs: list[dict[str, float]] = []
        self.progress: list[dict[str, float]] = []

    def report_progress(self, figures: dict[str, float]) -> None:
        self.progress.append(figures)

    def report_epoch(self, figures: dict[str, float]) -> None:
        self.epochs.append(figures)


def epochs_of_training(resolved: dict[str, Any]) -> list[list[float]]:
    """Train on this rank and return loss and ndcg@10 of each epoch."""
    recorder = EpochRecorder()
    train(experiment_from(resolved, source="test"), CPU, recorder)
    return [[epoch["loss"], epoch["ndcg@10"]] for epoch in recorder.epochs]
