"""The 0.1 name of `flexseg.models.layers.upsampling`, kept until 1.0."""

from flexseg.models.layers.upsampling import BilinearUpsampling as BilinearUp
from flexseg.models.layers.upsampling import interpolation

__all__ = ["BilinearUp", "interpolation"]
