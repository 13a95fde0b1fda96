"""The 0.1 name of `flexseg.models.layers.inputs_outputs` and `arguments`, kept until 1.0."""

from flexseg.models.layers.arguments import check_head, check_image_size, check_rate
from flexseg.models.layers.inputs_outputs import full_precision, image_input, logits

__all__ = ["check_head", "check_image_size", "check_rate", "full_precision", "image_input", "logits"]
