"""Benchmarks of training: speed, memory, and the value of the parts of the model."""
