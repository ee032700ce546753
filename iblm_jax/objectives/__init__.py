"""Losses and metrics as pure functions of a batch and parameters."""
