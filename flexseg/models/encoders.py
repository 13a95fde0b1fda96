"""The 0.1 name of `flexseg.models.layers.encoders`, kept until 1.0."""

from flexseg.models.layers.encoders import ATROUS, ENCODERS, NORMALIZATIONS, STRIDE, Encoder, headless, network

__all__ = ["ATROUS", "ENCODERS", "NORMALIZATIONS", "STRIDE", "Encoder", "headless", "network"]
