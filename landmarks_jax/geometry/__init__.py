"""Floor 1: pure geometry on arrays; coords.py holds the one coordinate convention."""
