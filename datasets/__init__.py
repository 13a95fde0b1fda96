"""TFDS builders, one folder each; imported as `flexseg.datasets`."""
