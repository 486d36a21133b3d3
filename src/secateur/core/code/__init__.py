"""Numbers in Python code and in what modules hold: where they stand, and the same with another number."""
