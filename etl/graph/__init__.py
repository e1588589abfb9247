"""Relations between items: co-occurrence, neighbors and interest centers (Eq. 1-5, 10)."""
