"""Floor 4: reading and writing other programs' files."""
