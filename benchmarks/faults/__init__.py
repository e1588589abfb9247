"""Faults made on purpose, and how the commands answer them."""
