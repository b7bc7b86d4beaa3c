"""Floor 4: other programs' files, in and out."""
