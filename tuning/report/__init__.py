"""The results of a finished sweep: its winner, tables and page."""
