"""A synthetic catalogue of any size: raw files for the ETL, or finished tables for training."""
