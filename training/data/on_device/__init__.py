"""Sparse matrices on the model's device."""
