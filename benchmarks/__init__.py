"""Benchmarks, each a command that prints a Markdown table. A reading is a process of its own."""
