"""Features of the items for models without an item graph: linear maps, and whitening.

X items, n of them, M modalities, D width, F features.
"""

import torch
from torch import Tensor, nn

from training.data.item_tables import ItemTables

TINY = 1e-12  # least variance, for vectors that are all equal


class Features(nn.Module):
    """The feature vectors of every modality, each with a linear map to D."""

    def __init__(self, tables: ItemTables, dim: int) -> None:
        super().__init__()
        self.names = tuple(tables.modalities)
        self.maps = nn.ModuleList()
        for index, modality in enumerate(tables.modalities.values()):
            vectors = modality.features
            assert vectors is not None
            self.register_buffer(f"vectors_{index}", vectors, persistent=False)
            self.maps.append(nn.Linear(vectors.shape[1], dim))

    def forward(self, items: Tensor | None) -> Tensor:
        """Return the mapped vectors of the items (None: all) -> [n, M, D], zeros without one."""
        mapped = []
        for index, mapping in enumerate(self.maps):
            vectors: Tensor = getattr(self, f"vectors_{index}")
            vectors = vectors if items is None else vectors[items]
            present = (vectors != 0).any(dim=1, keepdim=True)
            mapped.append(mapping(vectors) * present)
        return torch.stack(mapped, dim=1)


def whiten(vectors_XF: Tensor, floor: float = 1e-3) -> Tensor:
    """Transform the nonzero vectors to mean 0 and covariance 1; zero vectors stay zero.

    Directions with less than `floor` of the largest variance are mostly noise. They are scaled as
    if they had that variance.
    """
    present = (vectors_XF != 0).any(dim=1)
    centered = vectors_XF[present].double()
    centered = centered - centered.mean(dim=0)
    variances, directions = torch.linalg.eigh(centered.T @ centered / max(len(centered), 1))
    least = max(float(variances.max()) * floor, TINY)
    scale = variances.clamp(min=least).rsqrt()
    white = torch.zeros_like(vectors_XF)
    white[present] = (centered @ directions * scale).to(white.dtype)
    return white
