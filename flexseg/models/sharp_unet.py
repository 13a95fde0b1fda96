"""SharpUNet: a U-Net whose skips pass a fixed sharpening filter (Zunair & Ben Hamza 2021, arXiv:2107.12461).

    model = sharp_unet(image_size=(512, 512), image_channels=3, num_classes=2, base_filters=32, num_layers=5)

Fixed here: in the reference every stage of the decoder upsampled what stood before the two convolutions of the stage below, so that these, and
their weights, reached no output. Its parameter count of 5,613,154 leaves them out; with them alive it is 7,760,130 (tests/test_models.py adds them
up).
"""

from typing import Any

import gin
import keras
import numpy as np

from flexseg.models.layers.architecture import architecture
from flexseg.models.layers.arguments import Rate, check_halvings
from flexseg.models.layers.blocks import conv_block
from flexseg.models.layers.conv_style import ConvStyle
from flexseg.models.layers.convolutions import Conv2DTranspose
from flexseg.models.layers.inputs_outputs import logits
from flexseg.models.layers.levels import Levels
from flexseg.models.layers.task import Task


@gin.configurable("sharp_unet")
@architecture
def sharp_unet(
    *, task: Task, levels: Levels = Levels(base_filters=32, num_layers=5), dropout_rate: Rate = 0.0, style: ConvStyle = ConvStyle()
) -> keras.Model:
    """Builds a SharpUNet under the global dtype policy: raw pixels [B, H, W, C] to logits [B, H, W, num_classes].

    Height and width are multiples of 2**(num_layers - 1). The reference's `filters` and `max_filter` are those of base_filters=32 and five layers. It
    has no normalization; here one stands before every activation.

    Args:
      base_kernels: kernel of every level, a number or (height, width), at least 3 (the reference's `base_ksize`).
      dropout_rate: dropout between the two convolutions of every block; neither paper nor reference drop anything.
    """
    check_halvings(task.image_size, levels.num_layers, owner="sharp_unet")

    def block(x: keras.KerasTensor, level: int, name: str) -> keras.KerasTensor:
        return conv_block(x, style, name=name, **levels.conv(level) | {"kernel": levels.kernels[0]}, dropout_rate=dropout_rate)

    inputs, x = task.inputs()
    skips, deepest = [], levels.num_layers - 1
    for level in range(deepest):
        x = block(x, level, f"encoder_{level}")
        skips.append(Sharpening(name=f"skip_{level}_sharpen")(x))
        x = keras.layers.MaxPooling2D(name=f"encoder_{level}_pool")(x)
    x = block(x, deepest, "bridge")
    for level in reversed(range(deepest)):
        x = Conv2DTranspose(levels.filters[level], 2, strides=2, name=f"decoder_{level}_up")(x)
        x = keras.layers.Concatenate(name=f"decoder_{level}_concat")([x, skips[level]])
        x = block(x, level, f"decoder_{level}")
    return keras.Model(inputs, logits(x, task.num_classes), name="sharp_unet")


class Sharpening(keras.layers.Layer):
    """Every channel through the Laplacian of the paper's equation 3: eight times a value less its eight neighbours, zeros beyond the border."""

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        """[B, H, W, C] to the same."""
        kernel = -np.ones((3, 3, 1, 1))
        kernel[1, 1] = 8
        return keras.ops.depthwise_conv(x, keras.ops.convert_to_tensor(np.tile(kernel, (1, 1, x.shape[-1], 1)), x.dtype), padding="same")

    def compute_output_shape(self, input_shape: tuple[Any, ...]) -> tuple[Any, ...]:
        """That of the input."""
        return input_shape
