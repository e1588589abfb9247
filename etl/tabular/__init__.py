"""Tables of the user's own, read into the rows of `interactions` and `metadata`."""
