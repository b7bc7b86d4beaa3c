"""Floor 5: from trained weights and any pictures to features and landmarks in pixels."""
