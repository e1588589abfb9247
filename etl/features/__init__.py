"""Vectors of the items of one modality: encoded from text or images, or from the user's files."""
