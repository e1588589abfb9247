"""Losses over the items: the softmax over all of them in tiles, and over a sample."""
