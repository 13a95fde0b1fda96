"""The 0.1 name of `flexseg.models.layers.blocks`, `conv_style`, `levels` and `arguments`, kept until 1.0."""

from flexseg.models.layers.arguments import check_choice, check_whole
from flexseg.models.layers.blocks import conv_block, conv_unit
from flexseg.models.layers.conv_style import ACTIVATIONS, NORMALIZATIONS, POSITIONS, ConvStyle
from flexseg.models.layers.levels import level_dilations, level_kernels

__all__ = [
    "ACTIVATIONS",
    "NORMALIZATIONS",
    "POSITIONS",
    "ConvStyle",
    "check_choice",
    "check_whole",
    "conv_block",
    "conv_unit",
    "level_dilations",
    "level_kernels",
]
