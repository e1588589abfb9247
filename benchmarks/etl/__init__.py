"""Benchmarks of the ETL, and the data that they run on."""
