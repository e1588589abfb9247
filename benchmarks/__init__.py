"""Benchmarks, each a command that prints a Markdown table. Each reading is a new process."""
