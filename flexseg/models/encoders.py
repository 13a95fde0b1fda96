"""The 0.1 name of `flexseg.models.layers.encoders`, kept until 1.0."""

from flexseg.models.layers.encoders import Encoder  # noqa: F401
