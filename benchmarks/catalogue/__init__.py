"""A synthetic catalogue of any size: raw files for the ETL, or tables for training alone."""
