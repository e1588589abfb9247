"""Places of items: an order in which near items are neighbors, so that ranks own similar items."""
