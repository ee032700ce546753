"""Meshes, processes, and what a compiled step costs on them."""
