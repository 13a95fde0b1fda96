"""Synthetic stained tissue with nuclei, the embedded default dataset."""
