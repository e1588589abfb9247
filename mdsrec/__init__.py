"""The kernel of mdsrec: configuration, table contract, metrics. It loads neither Spark, torch nor
Ray.
"""

__version__ = "0.1.0"
