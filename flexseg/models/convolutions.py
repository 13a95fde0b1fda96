"""The 0.1 name of `flexseg.models.layers.convolutions`, kept until 1.0."""

from flexseg.models.layers.convolutions import Conv2D, Conv2DTranspose, Dense, SeparableConv2D, add_bias

__all__ = ["Conv2D", "Conv2DTranspose", "Dense", "SeparableConv2D", "add_bias"]
