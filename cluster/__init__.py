"""All stages of an experiment with one command."""
