"""Unsupervised learning of object landmarks in JAX/Flax. Start at contracts.py."""

__version__ = '0.1.0'
