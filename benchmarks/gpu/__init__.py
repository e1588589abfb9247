"""Checks of a machine with a GPU that only a GPU can answer, in about ten minutes.

With `--pretend` every check runs on the CPU, those of kernels through `gpu_harness`. That proves
the checks themselves, at small sizes; their times then say nothing.
"""
