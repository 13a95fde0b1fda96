"""Shipped gin files: recipes here, one file per architecture in `models/`."""
