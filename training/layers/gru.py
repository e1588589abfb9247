"""GRU layers of the recurrent models as in RecBole: without biases, Glorot-uniform weights."""

import torch
from torch import nn


def gru(dim: int, hidden_dim: int, num_layers: int) -> nn.GRU:
    """Return GRU layers that map [B, T, dim] to states [B, T, hidden_dim] and the last states."""
    return nn.GRU(dim, hidden_dim, num_layers, bias=False, batch_first=True)


def initialize_recurrent(model: nn.Module, seed: int) -> None:
    """Draw Glorot-uniform weights for every GRU of the model, by random numbers from `seed`."""
    generator = torch.Generator().manual_seed(seed)
    for layers in (module for module in model.modules() if isinstance(module, nn.GRU)):
        for weight in layers.parameters():
            nn.init.xavier_uniform_(weight, generator=generator)
