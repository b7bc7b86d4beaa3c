"""Floor 2: random views of a batch of pictures, on the device, from an explicit rng."""
