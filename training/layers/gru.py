"""GRU layers of the recurrent models, as RecBole makes them: without biases, Glorot weights."""

import torch
from torch import nn


def gru(dim: int, hidden_dim: int, num_layers: int) -> nn.GRU:
    """[B, T, dim] -> [B, T, hidden_dim], and the last states."""
    return nn.GRU(dim, hidden_dim, num_layers, bias=False, batch_first=True)


def initialize_recurrent(model: nn.Module, seed: int) -> None:
    """Glorot-uniform weights for every GRU layer of the model, from `seed` alone."""
    generator = torch.Generator().manual_seed(seed)
    for layers in (module for module in model.modules() if isinstance(module, nn.GRU)):
        for weight in layers.parameters():
            nn.init.xavier_uniform_(weight, generator=generator)
