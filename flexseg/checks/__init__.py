"""The checks of `flexseg check`: survey, findings, duplicates, report. Needs no TensorFlow."""
