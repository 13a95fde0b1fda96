"""The 0.1 name of `flexseg.models.layers.convolutions`, kept until 1.0."""

from flexseg.models.layers.convolutions import Conv2D, Dense  # noqa: F401
