"""Evaluation: scores of cases, reports and bootstrap confidence intervals. `evaluate.py` runs the model; the rest is NumPy."""
