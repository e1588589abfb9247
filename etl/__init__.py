"""The ETL: Spark jobs that turn raw reviews, metadata and vectors into tables."""
