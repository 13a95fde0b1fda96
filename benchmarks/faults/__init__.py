"""Fault injection in distributed training: `python -m benchmarks.faults`."""
