"""Exact ranking of every held-out event on Ray, its metrics and its report."""
