"""Several runs of one experiment: sweeps over a search space and studies that compare models."""
