"""Weights carried from a trained run to other tables: a warm start, and items that came later."""
