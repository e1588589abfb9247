"""Benchmarks of warm starts, appended items, and starts from another category."""
