"""The 0.1 name of `flexseg.models.layers.inputs_outputs`, kept until 1.0."""

from flexseg.models.layers.inputs_outputs import *  # noqa: F403
