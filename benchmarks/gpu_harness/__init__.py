"""The GPU's code path on a machine without one: devices, launches and synchronisations of a step.

A `PretendTensor` holds a tensor of the CPU and says cuda:0. Every operation on one is held to
CUDA's rules, counted, and computed on the CPU, so branches for a GPU run and their results can be
compared. It shows no time of a GPU, no choice of a kernel and no rounding of one.
"""
