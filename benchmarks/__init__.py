"""Benchmarks: each prints a table whose readings were taken in processes of their own."""
