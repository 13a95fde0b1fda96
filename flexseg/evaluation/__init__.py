"""Scores per case, class and group; the report; pictures of masks; curves of a run. NumPy, Pillow and matplotlib only."""
