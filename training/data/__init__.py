"""Training data: sequences as global steps, item tables as sparse matrices, negatives."""
