"""Builders, which write the tables: each class makes a group of them from the same inputs."""
