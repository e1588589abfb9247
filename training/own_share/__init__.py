"""A trained model of which this process holds the vectors, weights and graphs of its own items."""
