"""Parameters with a row for each item, stepped by rows."""
