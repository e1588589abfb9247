"""The life of a run: its identity, its lease, stop requests and signals."""
