"""The 0.1 name of `flexseg.models.layers.blocks`, kept until 1.0."""

from flexseg.models.layers.blocks import *  # noqa: F403
