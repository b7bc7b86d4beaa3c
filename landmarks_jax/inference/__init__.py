"""Floor 5: trained weights and any pictures in, features and landmarks in pixels out."""
