"""Checkpoints that any number of workers and any ZeRO stage can read."""
