"""Scores, reports, curves and pictures; `evaluate.py` runs the model over a split, the rest is NumPy, Pillow and matplotlib."""
