"""Rendered datasets with exact answers: nothing to download."""
