"""Reports of a training: log lines, progress bar, learning curves, gauges, Ray Train.

Each output imports the package that it writes with, so the loop runs without Ray and TensorBoard.
"""

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from pyarrow import ArrowException, fs

from mdsrec import files
from mdsrec.config import Experiment
from mdsrec.run_paths import RunPaths
from mdsrec.text import duration
from training.data.sequences import EpochPosition
from training.progress import EpochTotals, Progress

log = logging.getLogger("training")

Figures = dict[str, float]
"""Metrics of an epoch by name."""

GAUGES = {  # by the name of the figure
    "epoch": ("mdsrec_epoch", "Current epoch, or the last one after the end"),
    "loss": ("mdsrec_loss", "Training loss of the epoch so far"),
    "prefixes_per_second": ("mdsrec_prefixes_per_second", "Throughput of all ranks together"),
    "ndcg@10": ("mdsrec_valid_ndcg_at_10", "Validation ndcg@10 of the last finished epoch"),
}


class Reporter:
    """The interface to which the training loop reports. This base class ignores every report."""

    def report_step(self, epoch: int, position: EpochPosition) -> None:
        """Report a step that led to `position`."""

    def report_progress(self, figures: Figures) -> None:
        """Report figures of an unfinished epoch, as often as a progress line is logged."""

    def report_epoch(self, figures: Figures) -> None:
        """Report a finished epoch, once its checkpoint is written."""

    def close(self, failed: bool = False) -> None:
        """Finish what is still being written. `failed` means that the training raised an error."""


class RayReporter(Reporter):
    """The outputs of a training on Ray; as a context, they are closed at its end.

    Every rank needs one, since Ray Train waits for the reports of all ranks. Only rank 0 has the
    other outputs, and those of `more`.
    """

    def __init__(
        self, experiment: Experiment, rank: int, shows_bar: bool, more: Sequence[Reporter] = ()
    ) -> None:
        self._outputs: list[Reporter] = [*more]
        if rank == 0:
            self._outputs += [LearningCurves(RunPaths.of(experiment)), Gauges(experiment.name)]
            self._outputs += [EpochBar()] if shows_bar else []

    def report_step(self, epoch: int, position: EpochPosition) -> None:
        for output in self._outputs:
            output.report_step(epoch, position)

    def report_progress(self, figures: Figures) -> None:
        for output in self._outputs:
            output.report_progress(figures)

    def report_epoch(self, figures: Figures) -> None:
        from ray import train

        for output in self._outputs:
            output.report_epoch(figures)
        train.report(figures)

    def close(self, failed: bool = False) -> None:
        for output in self._outputs:
            output.close(failed)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        self.close(failed=error is not None)


class EpochBar(Reporter):
    """A progress bar over the steps of each epoch, on the driver's terminal."""

    def __init__(self) -> None:
        self._epoch = -1
        self._bar: Any = None

    def report_step(self, epoch: int, position: EpochPosition) -> None:
        from training.distributed.progress_bar import terminal_bar

        if epoch != self._epoch:
            self._epoch = epoch
            self._bar = terminal_bar(f"epoch {epoch}", _num_steps(position))
        self._bar.total, self._bar.n = _num_steps(position), position.number
        if position.share < 1:
            self._bar.refresh()
        else:
            self._bar.close()


class LearningCurves(Reporter):
    """Learning curves for TensorBoard, in the folder `events` of a run.

    TensorBoard writes to a local folder. Its files are then copied to the run folder, which may be
    on any file system.
    """

    def __init__(self, paths: RunPaths) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._target, self._path = files.file_system(paths.events)
        self._local = tempfile.TemporaryDirectory()
        self._writer = SummaryWriter(self._local.name)

    def report_epoch(self, figures: Figures) -> None:
        """Add a point to each curve. A failure to write them is logged, not raised."""
        for name, value in figures.items():
            if name != "epoch":
                tag = name.replace("loss_", "loss/")
                self._writer.add_scalar(tag, value, int(figures["epoch"]))
        try:
            self._writer.flush()
            self._copy()
        except (OSError, ArrowException) as error:
            log.warning("learning curves: %s", files.first_line(error))

    def _copy(self) -> None:
        self._target.create_dir(self._path, recursive=True)
        for file in Path(self._local.name).iterdir():
            fs.copy_files(
                str(file),
                f"{self._path}/{file.name}",
                source_filesystem=fs.LocalFileSystem(),
                destination_filesystem=self._target,
            )


class Gauges(Reporter):
    """Prometheus gauges of a run. Ray exports them on the metrics port of the node, as ray_NAME."""

    def __init__(self, run_name: str) -> None:
        from ray.util.metrics import Gauge

        self._gauges = {
            figure: Gauge(name, description, ("run",))
            for figure, (name, description) in GAUGES.items()
        }
        for gauge in self._gauges.values():
            gauge.set_default_tags({"run": run_name})

    def report_progress(self, figures: Figures) -> None:
        for figure in self._gauges.keys() & figures.keys():
            self._gauges[figure].set(figures[figure])

    report_epoch = report_progress


def progress_figures(epoch: int, totals: EpochTotals, before: EpochTotals, loss: float) -> Figures:
    """Return loss and throughput of an unfinished epoch, the throughput since `before`."""
    seconds = totals.seconds - before.seconds
    throughput = (totals.num_prefixes - before.num_prefixes) / seconds
    return {"epoch": epoch, "loss": loss, "prefixes_per_second": throughput}


def progress_line(figures: Figures, totals: EpochTotals, before: EpochTotals) -> str:
    """Return the log line of an unfinished epoch, with an estimate of the time that is left."""
    seconds, share = totals.seconds - before.seconds, totals.position.share
    left = seconds * (1 - share) / max(share - before.position.share, 1e-9)
    return (
        f"epoch {figures['epoch']:>3}  {_steps_text(totals.position)}  "
        f"loss {figures['loss']:.4f}  "
        f"{figures['prefixes_per_second']:,.0f} prefixes/s  {duration(left)} left"
    )


def epoch_line(figures: Figures, best_epoch: int) -> str:
    """Return the log line of a finished epoch."""
    return (
        f"epoch {figures['epoch']:>3}  loss {figures['loss']:.4f}  "
        f"valid ndcg@10 {figures['ndcg@10']:.4f}  recall@10 {figures['recall@10']:.4f}  "
        f"{figures['prefixes_per_second']:,.0f} prefixes/s  {figures['seconds']:.1f} s  "
        f"best epoch {best_epoch}"
    )


def position_text(progress: Progress) -> str:
    """Return `epoch 3`, or `epoch 3, step 1,240 of about 5,000`."""
    position = progress.totals.position
    steps = f", {_steps_text(position)}" if position.number else ""
    return f"epoch {progress.next_epoch}{steps}"


def _steps_text(position: EpochPosition) -> str:
    return f"step {position.number:,} of about {_num_steps(position):,}"


def _num_steps(position: EpochPosition) -> int:
    """Estimate the steps of the whole epoch from the share of its users that are done."""
    return round(position.number / position.share)
