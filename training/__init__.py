"""MDSRec's model and its training on Ray Train with DeepSpeed."""
