"""Measures and predicts how training scales: `python -m benchmarks.scaling`."""
