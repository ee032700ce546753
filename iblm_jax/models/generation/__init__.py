"""Sampling, and what it keeps between tokens."""
