"""One file a model: its paper, its equations, and where this code departs from the original."""
