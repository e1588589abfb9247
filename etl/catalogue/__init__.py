"""Spark steps from raw reviews and metadata to interactions, sequences and items."""
