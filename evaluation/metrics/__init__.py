"""Metrics of a run: means, intervals, slices, and what recommendation lists cover."""
