"""The training loop, its state, meshes, checkpoints and metrics."""
