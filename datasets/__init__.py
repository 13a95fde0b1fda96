"""TFDS dataset builders, one folder each; imported as `flexseg.datasets`."""
