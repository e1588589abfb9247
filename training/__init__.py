"""MDSRec, the models beside it, and their training on Ray Train with DeepSpeed."""
