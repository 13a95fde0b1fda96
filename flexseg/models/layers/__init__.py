"""Layers and blocks that several architectures share."""
