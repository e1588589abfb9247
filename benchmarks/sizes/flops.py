"""Floating-point operations of a rank's step of MDSRec: a product of [m, k] and [k, n] has 2 m k n.

The backward pass of a product takes two of its size. Attention, LayerNorm, GELU and softmax beyond
products are not counted.

B sequences, T positions, D width, I inner width, N heads, L layers, K centers, P prefixes of all
ranks, n own items, R scored items.
"""

from benchmarks.sizes.shape import Counts, Graphs, Shape
from training.models.mdsrec.centers import SAVED_BYTES, absorption_is_cheaper

FLOAT = 4


def of_step(
    shape: Shape, counts: Counts, graphs: Graphs, full: bool, keeps_scores: bool = False
) -> dict[str, int]:
    """Return the operations of forward and backward by part.

    `keeps_scores` says that the scores of the full softmax fit into memory; otherwise the backward
    pass computes them again.
    """
    found = {
        "encoders": 3 * shape.channels * shape.layers * _block(shape, counts),
        "centers": shape.modalities * _centers(shape, counts),
        "sparse products": _sparse(shape, counts, graphs),
    }
    if not full:
        scores = 2 * counts.prefixes * counts.scored * shape.dim
        return found | {"softmax": 3 * shape.channels * scores}
    everyone = counts.prefixes + counts.prefixes_of_others
    scores = 2 * everyone * shape.own_items * shape.dim
    vectors = 2 * graphs.neighbors * shape.dim
    times = 3 if keeps_scores else 4
    found["sparse products"] += (times - 1) * vectors
    return found | {"softmax": times * shape.channels * scores}


def _block(shape: Shape, counts: Counts) -> int:
    """Return the operations of a Transformer block, forward."""
    tokens, D = counts.sequences * counts.length, shape.dim
    projections = 4 * 2 * tokens * D * D
    attention = 2 * 2 * tokens * counts.length * D
    feedforward = 2 * 2 * tokens * D * shape.inner_dim
    return projections + attention + feedforward


def _centers(shape: Shape, counts: Counts) -> int:
    """Return the operations of the interest centers of a modality, forward and backward."""
    D, T, K = shape.dim, counts.length, shape.centers
    tokens, width = counts.sequences * T, shape.heads * T
    all_centers = tokens * K  # of every position of every sequence
    is_absorbed = absorption_is_cheaper(shape.heads, T, D)
    weights = 2 * 2 * D * D * D  # U W1 W2
    first = 2 * K * D * D + 2 * tokens * K * D  # queries and scores of c^0
    if is_absorbed:
        of_tokens = 2 * tokens * D * D  # U W1 W2 on the values; on the keys, Q
        outputs = 2 * all_centers * (width + 1) * D
        later = of_tokens + 2 * tokens * D
        scores = 2 * all_centers * width * D
    else:
        of_tokens = later = 0
        outputs = 2 * all_centers * (T * D + D * D)
        scores = 2 * all_centers * (D * D + T * D)
    shared = shape.layers * (weights + of_tokens) + first + (shape.layers - 1) * later
    mixture = 2 * all_centers * D
    of_prefixes = shape.layers * outputs + (shape.layers - 1) * scores + mixture
    widest = FLOAT * all_centers * max(D, width)
    times = 3 if widest * shape.layers <= SAVED_BYTES else 4  # computed again in the backward pass
    return 3 * shared + times * of_prefixes - mixture * (times - 2)


def _sparse(shape: Shape, counts: Counts, graphs: Graphs) -> int:
    """Return those of the products of graphs with E, and of their transposed ones."""
    own = counts.items + counts.scored
    entries = own + counts.near_entries + counts.list_entries + graphs.centers
    return 2 * 2 * shape.dim * entries
