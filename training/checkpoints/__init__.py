"""Checkpoints that can be resumed with any number of workers and at any ZeRO stage."""
