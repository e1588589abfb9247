"""The memory of transitions between items, and its spreading to similar items."""
