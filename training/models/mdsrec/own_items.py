"""The item side of MDSRec for the items that a process owns, where ranking shares all items.

C = 1 + |M| channels, X items, n own ones, D width, K centers, k of them of this process.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from training.data.column_blocks import products_in_blocks
from training.data.sparse import SparseMatrix
from training.models.base import OwnItemVectors
from training.models.mdsrec.items import ItemRepresentations, MDSRecItemVectors
from training.sharding.exchange import read_rows
from training.sharding.owners import Owners


@torch.no_grad()
def own_item_vectors(
    representations: ItemRepresentations,
    embedding_nD: Tensor,
    items: Tensor | None,
    owners: Owners,
    blocks: Iterable[Tensor],
) -> OwnItemVectors:
    """Return vectors and tokens of the own items, with the bits that they have among all items.

    `embedding_nD` are their rows of E^id, and `blocks` those of all items. `items` (None: the own
    ones) may be more. Collective.
    """
    num_own = owners.shards.num_own
    table_nD = _with_halo(embedding_nD, owners)
    vectors_CnD = representations.unscaled_vectors(table_nD, num_own, items)
    lengths = representations.divide_by_lengths(vectors_CnD)
    near_nD, centers = _products_with_all(representations, blocks, owners)
    smoothed_nD = representations.smooth(embedding_nD, near_nD)
    own = MDSRecItemVectors(vectors_CnD, lengths, smoothed_nD, centers)
    return OwnItemVectors(vectors_CnD, own.tokens, centers)


def _with_halo(embedding_nD: Tensor, owners: Owners) -> Tensor:
    """Return the own rows of E^id, and those of the halo behind. Collective."""
    if owners.halo is None:
        return embedding_nD
    plan = owners.halo._replace(wanted=owners.halo.wanted.to(embedding_nD.device))
    return torch.cat([embedding_nD, read_rows(plan, embedding_nD, owners.peers)])


def _products_with_all(
    representations: ItemRepresentations, blocks: Iterable[Tensor], owners: Owners
) -> tuple[Tensor, list[Tensor | None]]:
    """Return the own rows of N(O) E^id, and c^0 of each modality. Collective.

    A process holds the rows of C Ahat of k centers, and c^0 is gathered.
    """
    cooccurrence, modalities = representations.cooccurrence, representations.modalities
    assert isinstance(cooccurrence, SparseMatrix)
    rows = {name: m.centers.matrix for name, m in modalities.items() if m.centers is not None}
    near_nD, *parts = products_in_blocks([cooccurrence, *rows.values()], blocks)
    centers_of = {}
    for name, part_kD in zip(rows, parts, strict=True):
        counts = owners.peers.gather_counts(len(part_kD))
        centers_of[name] = owners.peers.gather("centers", part_kD, counts)
    return near_nD, [centers_of.get(n, m.mapped_centers()) for n, m in modalities.items()]
