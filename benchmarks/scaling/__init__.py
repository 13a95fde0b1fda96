"""How training scales, measured and predicted: `python -m benchmarks.scaling`."""
