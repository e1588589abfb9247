"""Features of the items for models without an item graph: linear maps, and whitening.

X items, n of them, M modalities, D width, F features.
"""

import torch
from torch import Tensor, nn

from training.data.item_tables import ItemTables, Own
from training.layers.item_constants import ItemConstants

TINY = 1e-12  # least variance, for vectors that are all equal


class Features(nn.Module):
    """The feature vectors of every modality, each with a linear map to D."""

    def __init__(self, tables: ItemTables, dim: int) -> None:
        super().__init__()
        self.names = tuple(tables.modalities)
        self.vectors, self.maps = nn.ModuleList(), nn.ModuleList()
        for modality in tables.modalities.values():
            vectors = modality.features
            assert vectors is not None
            self.vectors.append(ItemConstants(vectors))
            self.maps.append(nn.Linear(vectors.shape[1], dim))

    def forward(self, items: Tensor | None) -> Tensor:
        """Return the mapped vectors of the items (None: all) -> [n, M, D], zeros without one."""
        mapped = []
        for constants, mapping in zip(self.vectors, self.maps, strict=True):
            vectors: Tensor = constants(items)
            present = (vectors != 0).any(dim=1, keepdim=True)
            mapped.append(mapping(vectors) * present)
        return torch.stack(mapped, dim=1)


def whiten(vectors_XF: Tensor, floor: float = 1e-3, own: Own | None = None) -> Tensor:
    """Transform the nonzero vectors to mean 0 and covariance 1; zero vectors stay zero.

    Directions with less than `floor` of the largest variance are mostly noise. They are scaled as
    if they had that variance. With `own` they are vectors of own items; then it is collective.
    """

    def over_items(sums: Tensor) -> Tensor:
        return sums if own is None else own.add_up(sums)

    present = (vectors_XF != 0).any(dim=1)
    centered = vectors_XF[present].double()
    number = over_items(torch.tensor([len(centered)])).clamp_min(1)
    centered = centered - over_items(centered.sum(dim=0)) / number
    variances, directions = torch.linalg.eigh(over_items(centered.T @ centered) / number)
    if own is not None:  # processors may choose other signs
        variances, directions = own.of_first(variances), own.of_first(directions)
    least = max(float(variances.max()) * floor, TINY)
    scale = variances.clamp(min=least).rsqrt()
    white = torch.zeros_like(vectors_XF)
    white[present] = (centered @ directions * scale).to(white.dtype)
    return white
