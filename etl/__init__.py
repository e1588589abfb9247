"""Raw reviews, metadata and vectors -> the tables of mdsrec.schema (Spark)."""
