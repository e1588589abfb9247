"""GRU layers of the recurrent models as in RecBole: without biases, Glorot-uniform weights."""

import torch
from torch import Tensor, nn


class GRU(nn.GRU):
    """GRU layers that a GPU computes in float32.

    Under autocast of bfloat16 PyTorch would call cuDNN with float16, where small gradients vanish.
    """

    def forward(self, x_BTD: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        if not x_BTD.is_cuda:
            states: tuple[Tensor, Tensor] = super().forward(x_BTD)
            return states
        with torch.autocast("cuda", enabled=False):
            return super().forward(x_BTD.float())


def gru(dim: int, hidden_dim: int, num_layers: int) -> GRU:
    """Return GRU layers that map [B, T, dim] to states [B, T, hidden_dim] and the last states."""
    return GRU(dim, hidden_dim, num_layers, bias=False, batch_first=True)


def initialize_recurrent(model: nn.Module, seed: int) -> None:
    """Draw Glorot-uniform weights for every GRU of the model, by random numbers from `seed`."""
    generator = torch.Generator().manual_seed(seed)
    for layers in (module for module in model.modules() if isinstance(module, nn.GRU)):
        for weight in layers.parameters():
            nn.init.xavier_uniform_(weight, generator=generator)
