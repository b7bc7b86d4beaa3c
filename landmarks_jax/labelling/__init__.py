"""Floor 5: people click few landmarks, a head is fitted, they correct what it predicts."""
