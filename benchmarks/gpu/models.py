"""Every model on the CPU and on the GPU: losses, gradients, and nothing that waits."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.gpu.device import Gpu
from benchmarks.gpu.report import Report
from benchmarks.gpu.world import MODELS, experiment_in, write_world
from benchmarks.gpu_harness.counts import place_of
from benchmarks.gpu_harness.stages import Taken, first_step, new_model, one_rank, step_on
from mdsrec.config import Experiment
from training.models.base import Model

LOSS, GRADIENT, BF16_LOSS = 1e-5, 1e-4, 1e-2  # relative
MOVED = 0.05
HOST = torch.device("cpu")


def models(gpu: Gpu, folder: Path, report: Report) -> None:
    model = gpu.size({"dim": 64, "num_centers": 8}, {"dim": 16, "num_centers": 4, "max_length": 8})
    write_world(experiment_in(folder, "mdsrec", model), gpu.size(1000, 200), gpu.size(200, 40))
    with one_rank(str(folder / "rendezvous")):
        for name in MODELS:
            batch = gpu.size(512, 32)
            experiment = experiment_in(folder, name, model, batch_size=batch)
            with gpu.left_out():
                on_cpu = step_on(_model(experiment), experiment, first_step(experiment), HOST)
            _compare(gpu, report, experiment, on_cpu)
            bf16 = experiment_in(folder, name, model, batch_size=batch, precision="bf16")
            _compare(gpu, report, bf16, on_cpu)


def _model(experiment: Experiment) -> Model:
    """Return a model whose initial weights are moved a little.

    Otherwise layer normalization divides an event without a modality, a row of zeros, by its least
    deviation, and gradients are rounding times 1e6 a layer.
    """
    model, generator = new_model(experiment), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(MOVED * torch.randn(parameter.shape, generator=generator))
    return model


def _compare(gpu: Gpu, report: Report, experiment: Experiment, on_cpu: Taken) -> None:
    """Compare a step on the GPU with the one in fp32 on the CPU."""
    precision = experiment.train.precision
    label = f"{experiment.model.name} {precision}"
    try:
        inside = gpu.without_waits()
        step = first_step(experiment)
        found = step_on(_model(experiment), experiment, step, gpu.device, inside)
    except RuntimeError as error:
        report.require(False, f"{label}: {str(error).splitlines()[0]} at {place_of(error)}")
        return
    waits = sum(counts.waits.total() for counts in found.counts_of.values())
    report.require(waits == 0, f"{label}: {waits} waits for the GPU")
    loss = _distance(found.losses, on_cpu.losses)
    of_name = {n: _distance(found.gradients[n], g) for n, g in on_cpu.gradients.items()}
    worst = max(of_name, key=lambda name: of_name[name])
    report.note(label, f"losses {loss:.1e}, gradients {of_name[worst]:.1e} ({worst})")
    report.require(loss <= (LOSS if precision == "fp32" else BF16_LOSS), f"{label}: losses")
    if precision == "fp32":
        report.require(of_name[worst] <= GRADIENT, f"{label}: the gradient of {worst}")


def _distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the largest difference beside the largest expected value.

    Values near 0 count by themselves: the gradient of a key's bias is 0 but for rounding.
    """
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-2))


def _note_type(types: set[str], _layers: nn.Module, _inputs: Any, states: Any) -> None:
    types.add(str(states[0].dtype))


def gru(gpu: Gpu, folder: Path, report: Report) -> None:
    model = {"dim": 64, "hidden_dim": 64, "max_length": gpu.size(50, 8)}
    write_world(experiment_in(folder, "gru4rec", model), gpu.size(1000, 200), gpu.size(200, 40))
    share_of_zeros: dict[str, float] = {}
    with one_rank(str(folder / "rendezvous")):
        for precision in ("fp32", "bf16"):
            train = {"batch_size": gpu.size(512, 32), "precision": precision}
            experiment = experiment_in(folder, "gru4rec", model, **train)
            built, types = new_model(experiment), set[str]()
            [layers] = [module for module in built.modules() if isinstance(module, nn.GRU)]
            layers.register_forward_hook(partial(_note_type, types))
            taken = step_on(built, experiment, first_step(experiment), gpu.device)
            of_gru = [g for n, g in taken.gradients.items() if "weight_hh" in n or "weight_ih" in n]
            zeros = sum(int((g == 0).sum()) for g in of_gru)
            share_of_zeros[precision] = zeros / sum(g.numel() for g in of_gru)
            report.note(f"{precision}: states", sorted(types))
            report.note(f"{precision}: share of zero gradients", share_of_zeros[precision])
            report.require(types == {"torch.float32"}, f"{precision}: states in {types}")
    most = share_of_zeros["fp32"] + 0.01
    report.require(share_of_zeros["bf16"] <= most, "bf16: gradients vanish")
