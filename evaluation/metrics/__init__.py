"""Metrics as reductions of the ranks table."""
