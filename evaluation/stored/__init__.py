"""Rows of large tables, read when they are needed."""
