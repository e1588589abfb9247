"""The places of items that each of W ranks owns.

Items are numbered, and the table `places` gives each of X items one of the places 0 to X - 1. A
rank owns a range of places, so ranges move with the number of ranks, and items do not.
"""

import numpy as np

from mdsrec.arrays import Counts

PLACES_TOGETHER = 1024  # every range but the last ends at a multiple of this


def bounds(num_items: int, world_size: int) -> Counts:
    """Return the first place of each rank, and `num_items` at the end -> [W + 1].

    Rank r owns the places in [bounds[r], bounds[r + 1]). Some ranges are empty if there are fewer
    than W groups of PLACES_TOGETHER places.
    """
    num_groups = -(-num_items // PLACES_TOGETHER)
    first_group = num_groups * np.arange(world_size + 1, dtype=np.int64) // world_size
    return np.minimum(PLACES_TOGETHER * first_group, num_items)
