"""The life of a run: its identity, the lease of its driver, stop requests and signals."""
