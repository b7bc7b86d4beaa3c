"""Floor 3: one file per method, found by its file name; each defines build(...) -> Method."""
