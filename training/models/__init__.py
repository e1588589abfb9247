"""Models: each file names its paper, its equations and where it departs from the original."""
