"""Task: what every network is asked for. Images of a size and a number of channels come in, logits of a number of classes go out.

Usage:
    task = Task(owner="my_net", image_size=(512, 512), image_channels=3, num_classes=2)
    inputs, x = task.inputs()                                       # both [B, 512, 512, 3]
"""

import dataclasses
from typing import ClassVar

import keras

from flexseg.models.layers.arguments import Settings, check_head
from flexseg.models.layers.inputs_outputs import image_input


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task(Settings):
    """Image and head of a network. `build_model` supplies the first three.

    Attributes:
      owner: the gin name of the network. Errors name `owner.field`.
      image_size: (height, width) in pixels. Each network names its divisors.
      image_channels: channels of the image. With an encoder of keras.applications 3, or 1, which is repeated.
      num_classes: 1 = one sigmoid logit; 2 or more = softmax over all classes.
      input_normalize: the network divides pixels by 255 itself.

    Raises:
      UserError: image_channels or num_classes is not a positive whole number.
    """

    ARGUMENTS: ClassVar = {name: name for name in ("image_size", "image_channels", "num_classes", "input_normalize")}

    owner: str = "Task"
    image_size: tuple[int, int]
    image_channels: int
    num_classes: int
    input_normalize: bool = True

    def __post_init__(self) -> None:
        check_head(self.image_channels, self.num_classes, owner=self.owner)

    def inputs(self) -> tuple[keras.KerasTensor, keras.KerasTensor]:
        """(the model's input, what its first layer takes), both [B, H, W, C]; see image_input."""
        return image_input(self.image_size, self.image_channels, scale=self.input_normalize)

    def raw_inputs(self) -> keras.KerasTensor:
        """The model's input [B, H, W, C], as an encoder takes it."""
        return image_input(self.image_size, self.image_channels, scale=False)[0]
