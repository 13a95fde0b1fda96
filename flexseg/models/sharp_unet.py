"""SharpUNet: a U-Net whose skips pass a fixed sharpening filter (Zunair & Ben Hamza 2021, arXiv:2107.12461).

    model = sharp_unet(image_size=(512, 512), image_channels=3, num_classes=2, base_filters=32, num_layers=5)

Mended here: in the reference every stage of the decoder raised what stood before the two convolutions of the stage below, so that these, and their
weights, reached no output. Its parameter count of 5,613,154 leaves them out; with them alive it is 7,760,130 (tests/test_sharp_unet.py adds them up).
"""

from typing import Literal

import gin
import keras
import numpy as np

from flexseg.models.layers.blocks import ConvStyle, check_whole, conv_block, level_dilations, level_kernels
from flexseg.models.layers.convolutions import Conv2DTranspose
from flexseg.models.layers.inputs_outputs import check_head, check_image_size, check_rate, image_input, logits


@gin.configurable("sharp_unet")
def sharp_unet(
    *,
    image_size: tuple[int, int],
    image_channels: int,
    num_classes: int,
    base_filters: int = 32,
    base_kernels: int | tuple[int, int] = (3, 3),
    num_layers: int = 5,
    dropout_rate: float = 0.0,
    dilation: int | tuple[int, int] = (1, 1),
    normalization: Literal["none", "batch", "sync_batch", "group"] = "none",
    activation: str = "relu",
    input_normalize: bool = True,
    group_count: int = 8,
    normalization_momentum: float = 0.99,
) -> keras.Model:
    """Builds a SharpUNet under the global dtype policy.

    Level i of `num_layers` (the bridge included) has base_filters * 2**i channels at 1 / 2**i of the image size.

    Args:
      image_size: (height, width) in pixels, both multiples of 2**(num_layers - 1).
      image_channels: channels of the image.
      num_classes: 1 = one sigmoid logit; 2 or more = softmax over all classes.
      base_filters: channels of level 0; the reference's `filters` and `max_filter` are those of 32 and five layers.
      base_kernels: of every level, a number or (height, width), at least 3 (the reference's `base_ksize`).
      num_layers: levels with the bridge, 2 or more.
      dropout_rate: between the two convolutions of every block; neither paper nor reference drop anything.
      dilation: of level 0, a number or (height, width); level i has max(1, dilation - i).
      normalization: "none", "batch", "sync_batch" or "group", before every activation; the reference has none.
      activation: any Keras name of ACTIVATIONS.
      input_normalize: the network divides pixels by 255 itself.
      group_count: groups of channels for normalization="group".
      normalization_momentum: share of the moving statistics that "batch" and "sync_batch" keep at each step.

    Returns:
      keras.Model: float32 [B, height, width, image_channels] of raw pixels 0..255 -> float32 logits [B, height, width, num_classes].

    Raises:
      UserError: a value out of range, or an image size that the depth cannot halve often enough.
    """
    owner = "sharp_unet"
    check_head(image_channels, num_classes, owner=owner)
    check_whole(base_filters, 1, owner=owner, name="base_filters")
    check_whole(num_layers, 2, owner=owner, name="num_layers")
    check_rate(dropout_rate, owner=owner)
    check_image_size(image_size, 2 ** (num_layers - 1), because=f"2**(num_layers - 1), with {owner}.num_layers = {num_layers}")
    style = ConvStyle(owner=owner, activation=activation, normalization=normalization, group_count=group_count, momentum=normalization_momentum)
    kernel, dilations = level_kernels(base_kernels, 1, owner=owner)[0], level_dilations(dilation, num_layers, owner=owner)

    def block(x, level: int, name: str):
        options = {"filters": base_filters * 2**level, "kernel": kernel, "dilation": dilations[level], "dropout_rate": dropout_rate}
        return conv_block(x, style, name=name, **options)

    inputs, x = image_input(image_size, image_channels, scale=input_normalize)
    skips = []
    for level in range(num_layers - 1):
        x = block(x, level, f"encoder_{level}")
        skips.append(Sharpening(name=f"skip_{level}_sharpen")(x))
        x = keras.layers.MaxPooling2D(name=f"encoder_{level}_pool")(x)
    x = block(x, num_layers - 1, "bridge")
    for level in reversed(range(num_layers - 1)):
        x = Conv2DTranspose(base_filters * 2**level, 2, strides=2, name=f"decoder_{level}_up")(x)
        x = keras.layers.Concatenate(name=f"decoder_{level}_concat")([x, skips[level]])
        x = block(x, level, f"decoder_{level}")
    return keras.Model(inputs, logits(x, num_classes), name=owner)


class Sharpening(keras.layers.Layer):
    """Every channel through the Laplacian of the paper's equation 3: eight times a value less its eight neighbours, zeros beyond the border."""

    def call(self, x):
        """[B, H, W, C] to the same."""
        kernel = -np.ones((3, 3, 1, 1))
        kernel[1, 1] = 8
        return keras.ops.depthwise_conv(x, keras.ops.convert_to_tensor(np.tile(kernel, (1, 1, x.shape[-1], 1)), x.dtype), padding="same")

    def compute_output_shape(self, input_shape):
        """That of the input."""
        return input_shape
