"""Floor 4: one file per dataset, found by its file name; each defines source(...)."""
