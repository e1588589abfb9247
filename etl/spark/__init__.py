"""The Spark session, and how tasks read and write tables."""
