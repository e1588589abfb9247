"""A training step compared with its plain form: speed, losses, and the operators that take time.

Both forms (see `plain.py`) get the same steps, weights and noise, in one process on the same
threads. For the comparison dropout is 0. It trains on all steps and compares the losses, then
repeats the first TIMED steps for the timing.
"""

import argparse
import time
from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.training import plain
from mdsrec.command import add_experiment
from mdsrec.config import Experiment
from mdsrec.config.loading import load_experiment
from mdsrec.text import markdown_table
from training.data.batch import Batch, batch_of
from training.data.item_tables import load_item_tables
from training.data.sequences import SequenceReader
from training.data.windows import Step
from training.device import keep_freed_memory
from training.models.mdsrec.model import MDSRec
from training.step import noise_of

CPU = torch.device("cpu")
TIMED, READINGS = 20, 10  # steps; products
PRODUCTS = ("mm", "bmm", "addmm", "baddbmm")
DETERMINISTIC = ("model.dropout=0.0", "model.item_mask=0.0")
KINDS = {  # prefixes of the operators' names; the first match counts
    "matrix products": PRODUCTS,
    "sparse products": ("_embedding_bag", "index_add_", "index_select", "embedding"),
    "softmax and cross-entropy": (
        "_softmax",
        "_log_softmax",
        "logsumexp",
        "exp_",
        "sub_",
        "gather",
        "scatter",
    ),
    "GELU, LayerNorm, dropout": ("gelu", "native_layer_norm", "random_", "ge", "mul"),
    "optimizer": ("lerp_", "addcdiv_", "addcmul_", "sqrt", "_fused_adam", "Optimizer"),
    "copies": ("copy_", "cat", "fill_", "clone"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_experiment(parser)
    parser.add_argument("--steps", type=int, default=50, help="to compare losses on (default: 50)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch")


def run(arguments: argparse.Namespace) -> None:
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    without = load_experiment(arguments.config, [*arguments.overrides, *DETERMINISTIC])
    steps = _steps(without, arguments.steps)
    print(_compare_forms(without, steps), "", sep="\n")
    with_dropout = load_experiment(arguments.config, arguments.overrides)
    print(_breakdown(with_dropout, _steps(with_dropout, TIMED)))


class Form:
    """One form of the model, with its own weights and optimizer."""

    def __init__(self, experiment: Experiment, losses: Callable[[MDSRec, Batch], Tensor]) -> None:
        self.experiment, self.losses = experiment, losses
        self.model = MDSRec(experiment, load_item_tables(experiment))
        self.model.initialize(experiment.seed)
        self.model.train()
        self.optimizer = torch.optim.Adam(
            self.model.parameters(), lr=experiment.optim.lr, fused=True
        )
        self.seconds = 0.0
        self.history: list[float] = []

    def step(self, number: int, step: Step) -> None:
        batch = batch_of(step, 0, 1, noise_of(self.model, self.experiment, step, (0, number)), CPU)
        started = time.perf_counter()
        loss = self.model.channel_weights @ self.losses(self.model, batch) / step.num_prefixes
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.seconds += time.perf_counter() - started
        self.history.append(loss.item())


def _steps(experiment: Experiment, count: int) -> list[Step]:
    reader = SequenceReader(experiment)
    return [step for _, step in zip(range(count), reader.steps(0), strict=False)]


def _compare_forms(experiment: Experiment, steps: list[Step]) -> str:
    longest = experiment.network.max_length
    ours = Form(experiment, lambda model, batch: model(batch))
    padded = Form(experiment, lambda model, batch: plain.losses(model, batch, longest))
    timed = steps[:TIMED]
    for form in (ours, padded):
        for number, step in enumerate(steps):
            form.step(number, step)
        form.seconds = 0.0
        for number, step in enumerate(timed):
            form.step(number, step)
    prefixes = sum(step.num_prefixes for step in timed)
    difference = max(abs(a - b) for a, b in zip(ours.history, padded.history, strict=True))
    rows = [
        [
            name,
            f"{prefixes / form.seconds:,.0f}",
            f"{padded.seconds / form.seconds:.1f}",
            f"{form.history[0]:.5f}",
            f"{form.history[len(steps) - 1]:.5f}",
        ]
        for name, form in (("plain", padded), ("ours", ours))
    ]
    table = markdown_table(["form", "prefixes/s", "times plain", "first loss", "last loss"], rows)
    settings = f"{len(steps)} steps of training, dropout 0, {torch.get_num_threads()} threads"
    return f"{settings}: losses differ by {difference:.1e} at most\n\n{table}"


def _breakdown(experiment: Experiment, steps: list[Step]) -> str:
    """Return the shares of operators in a step, and the rate of its matrix products.

    The rate is compared with that of the largest of these products, repeated by itself.
    """
    form = Form(experiment, lambda model, batch: model(batch))
    for _ in range(2):  # the first pass is the warm-up
        form.seconds = 0.0
        for number, step in enumerate(steps):
            form.step(number, step)
    seconds = form.seconds / len(steps)
    with torch.profiler.profile(with_flops=True) as profile:
        for number, step in enumerate(steps):
            form.step(number, step)
    microseconds: Counter[str] = Counter()
    flops = 0
    for event in profile.key_averages():
        microseconds[_kind(event.key)] += event.self_cpu_time_total
        flops += event.flops if event.key.removeprefix("aten::") in PRODUCTS else 0
    total = sum(microseconds.values())
    rows = [[kind, f"{used / total:.0%}"] for kind, used in microseconds.most_common()]
    peak = _peak(steps[0].num_prefixes, experiment.network.dim, len(form.model.item_embedding))
    rate = flops / len(steps) / seconds
    prefixes = sum(step.num_prefixes for step in steps) / len(steps)
    lines = [
        f"a step with dropout {experiment.network.dropout:g}: {seconds * 1e3:.0f} ms, "
        f"{prefixes / seconds:,.0f} prefixes/s",
        f"its matrix products: {flops / len(steps) / 1e9:.1f} GFLOP, so {rate / 1e9:.0f} GFLOP/s "
        f"over the whole step, {rate / peak:.2f} of the {peak / 1e9:.0f} GFLOP/s of the largest "
        "product by itself",
    ]
    return "\n".join([*lines, "", markdown_table(["kind of operator", "share of a step"], rows)])


def _kind(operator: str) -> str:
    """Return the kind of KINDS that an operator belongs to."""
    name = operator.removeprefix("aten::")
    found = (kind for kind, prefixes in KINDS.items() if name.startswith(prefixes))
    return next(found, "everything else")


def _peak(rows: int, inner: int, columns: int) -> float:
    """Return the FLOP/s of the step's largest product, the best of READINGS."""
    left, right = torch.randn(rows, inner), torch.randn(columns, inner).T
    product = left @ right
    best = float("inf")
    for _ in range(READINGS):
        started = time.perf_counter()
        torch.mm(left, right, out=product)
        best = min(best, time.perf_counter() - started)
    return 2 * rows * inner * columns / best
