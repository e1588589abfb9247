"""Type aliases of numpy arrays."""

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.integer]
Counts = NDArray[np.int64]
Floats = NDArray[np.float64]
