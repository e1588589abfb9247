"""Comparison of SASRec here with that of RecTools and of RePlay."""
