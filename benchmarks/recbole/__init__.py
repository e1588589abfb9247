"""Comparison of SASRec here with that of RecBole."""
