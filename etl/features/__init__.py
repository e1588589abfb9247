"""Vectors of a modality: from text, from images, or brought by the user."""
