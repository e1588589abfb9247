"""A trained run in one process: recommendations for any histories, without Ray and Spark."""
