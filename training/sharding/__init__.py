"""Parameters with a row for each item, divided among the ranks."""
