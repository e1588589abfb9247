"""Bytes that one rank holds, by kind, where each rank owns items.

n own items, h of the halo, D width, M modalities, H neighbors, K centers, X items.
"""

from benchmarks.sizes.shape import Counts, Graphs, Shape

FLOAT, INDEX, WIDE = 4, 4, 8
SORTED_ENTRY = 20  # bytes of an entry that arrives: row, column and weight, then sorted
PIECE = 1 << 16  # rows that a restore copies at a time
SAVED = 6  # tensors as large as the centers of all prefixes, in a layer
GRAPHS = ("Ahat", "N(O)", "C Ahat")
FEW = 1 << 20  # entries of C Ahat; more are kept by column too


def of_training(shape: Shape, graphs: Graphs, counts: Counts, full: bool) -> dict[str, int]:
    """Return the bytes of a training between its steps; the full loss also holds the halo."""
    n, row = shape.own_items, FLOAT * shape.dim
    held = {
        "own rows": n * row,
        "their gradient": n * row,
        "Adam's moments": 2 * n * row,
        "Ahat": shape.modalities * WIDE * n + graphs.neighbors * (2 * INDEX + FLOAT),
        "N(O)": 2 * WIDE * graphs.cooccurring_rows + graphs.cooccurring * (INDEX + FLOAT),
        "C Ahat": _center_bytes(shape, graphs),
        "plan of the halo": (INDEX + WIDE) * counts.halo_read + WIDE * counts.halo_lent,
    }
    return held | ({"halo and its gradient": 2 * counts.halo_read * row} if full else {})


def _center_bytes(shape: Shape, graphs: Graphs) -> int:
    entries = graphs.centers * (INDEX + FLOAT)
    if graphs.centers <= shape.modalities * FEW:
        return entries
    return 2 * entries + shape.modalities * WIDE * shape.own_items


def of_all_items(shape: Shape) -> dict[str, int]:
    """Return the bytes in host memory that a rank does not share: they grow with all items.

    Places are held once a host, and only where the table `places` exists. Training events are read
    if negatives are drawn by them (popularity, or in_batch, where a copy is ordered by place).
    """
    return {
        "places": INDEX * shape.items,
        "popularity": (WIDE + 3 * WIDE) * shape.items,  # num_train; its order, ends and widths
        "in_batch": 2 * WIDE * shape.items,  # num_train, and by place
    }


def of_step(shape: Shape, counts: Counts) -> int:
    """Return the bytes of a step: rows read, with gradient, and lent, sums, and activations."""
    row = FLOAT * shape.dim
    lent, own = counts.rows_lent, counts.rows - counts.rows_read
    sums = counts.items + counts.items_of_others
    rows = row * (2 * counts.rows + max(lent + own, counts.rows) + 2 * sums)
    centers = counts.sequences * counts.length * shape.centers
    widest = max(shape.dim, shape.heads * counts.length)
    saved = SAVED * shape.modalities * shape.layers * FLOAT * centers * widest
    return rows + saved


def of_validation(shape: Shape, counts: Counts) -> int:
    """Return the bytes of the vectors of own items, and of the halo while it is read and joined."""
    n, row = shape.own_items, FLOAT * shape.dim
    halo = counts.halo_read + counts.halo_lent
    read = row * halo
    joined = row * (n + 2 * counts.halo_read)
    scored = row * (n + counts.halo_read + shape.channels * n)
    return max(read, joined, scored)


def peak(shape: Shape, graphs: Graphs, counts: Counts, full: bool) -> int:
    """Return the bytes of a rank at the peak of a training with validations."""
    return max(by_phase(shape, graphs, counts, full).values())


def by_phase(shape: Shape, graphs: Graphs, counts: Counts, full: bool) -> dict[str, int]:
    """Return the bytes at the peak of each phase of a training."""
    held = of_training(shape, graphs, counts, full)
    in_all, of_graphs = sum(held.values()), sum(held[name] for name in GRAPHS)
    members = WIDE * shape.modalities * shape.own_items  # C, until the engine is built
    planned = held["plan of the halo"] + WIDE * counts.halo_lent  # ids as they arrive, and as rows
    row = FLOAT * shape.dim
    of_halo = row * (counts.halo_lent + counts.halo_read) if full else 0
    return {
        "load": max(SORTED_ENTRY * graphs.cooccurring, members + of_graphs + planned),
        "build": in_all + members,
        "steps": in_all + of_step(shape, counts) + of_halo,
        "save": in_all,
        "restore": in_all + 3 * row * PIECE,
        "validation": in_all + of_validation(shape, counts),
    }
