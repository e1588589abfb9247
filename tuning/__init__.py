"""Many runs of one experiment: studies of models."""
