"""Digests of stored files, by which a reader sees that it reads what was written."""
