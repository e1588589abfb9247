"""The kernel: configuration, tables, metrics. Importing it loads no Spark, torch or Ray."""

__version__ = "0.2.0"
