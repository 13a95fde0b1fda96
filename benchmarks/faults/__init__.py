"""Trials of training with faults: `python -m benchmarks.faults`."""
