"""Spark for the jobs: its session, and how tasks read and write tables."""
