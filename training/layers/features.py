"""Raw vectors of every modality, as models without a graph read them.

X items, n of them, M modalities, D width.
"""

import torch
from torch import Tensor, nn

from training.data.item_tables import ItemTables

TINY = 1e-12  # a variance of vectors that are all alike


class Features(nn.Module):
    """Each modality's vectors mapped linearly to D; zeros where an item has none."""

    def __init__(self, tables: ItemTables, dim: int) -> None:
        super().__init__()
        self.names = tuple(tables.modalities)
        self.maps = nn.ModuleList()
        for index, of_modality in enumerate(tables.modalities.values()):
            vectors = of_modality.features
            assert vectors is not None
            self.register_buffer(f"vectors_{index}", vectors, persistent=False)
            self.maps.append(nn.Linear(vectors.shape[1], dim))

    def forward(self, items: Tensor | None) -> Tensor:
        """Of the items (none: all) -> [n, M, D]."""
        found = []
        for index, mapping in enumerate(self.maps):
            vectors: Tensor = getattr(self, f"vectors_{index}")
            vectors = vectors if items is None else vectors[items]
            present = (vectors != 0).any(dim=1, keepdim=True)
            found.append(mapping(vectors) * present)
        return torch.stack(found, dim=1)


def whiten(vectors_XF: Tensor, floor: float = 1e-3) -> Tensor:
    """Vectors of mean 0 and covariance 1 over the items that have one; the others stay zeros.

    Directions with less than `floor` of the largest variance are noise and do not grow beyond it.
    """
    present = (vectors_XF != 0).any(dim=1)
    centred = vectors_XF[present].double()
    centred = centred - centred.mean(dim=0)
    variances, directions = torch.linalg.eigh(centred.T @ centred / max(len(centred), 1))
    least = max(float(variances.max()) * floor, TINY)
    scale = variances.clamp(min=least).rsqrt()
    found = torch.zeros_like(vectors_XF)
    found[present] = (centred @ directions * scale).to(found.dtype)
    return found
