"""MDSRec, its baselines, and their training on Ray Train with DeepSpeed."""
