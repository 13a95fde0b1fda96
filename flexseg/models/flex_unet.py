"""FlexUNet, also known as SlightlyFlexibleUNet: the reference's U-Net whose kernels and dilations shrink with depth.

    model = flex_unet(image_size=(512, 512), image_channels=3, num_classes=2, base_kernels=(9, 9), num_layers=8)
    logits = model(images)                                   # raw pixels [B, 512, 512, 3] -> float32 [B, 512, 512, 2]

With normalization="none" and residual=False it is the reference network weight for weight (parameter counts are tests); only the
last sigmoid or softmax lies outside, in loss and prediction. Normalization other than batch after the activation, and residual
blocks, are additions. `flexseg train --init_from=best_model.h5` reads the weights of the reference's checkpoints.
"""

from typing import Literal

import gin
import keras

from flexseg.models.layers.blocks import ConvStyle, check_whole, conv_block, level_dilations, level_kernels
from flexseg.models.layers.convolutions import Conv2DTranspose
from flexseg.models.layers.inputs_outputs import check_head, check_image_size, check_rate, image_input, logits


@gin.configurable("flex_unet")
def flex_unet(
    *,
    image_size: tuple[int, int],
    image_channels: int,
    num_classes: int,
    base_filters: int = 16,
    base_kernels: int | tuple[int, int] = (3, 3),
    num_layers: int = 6,
    dropout_rate: float = 0.04,
    dilation: int | tuple[int, int] = (1, 1),
    normalization: Literal["none", "batch", "sync_batch", "group", True, False] = "none",
    normalization_position: Literal["after_activation", "before_activation"] = "after_activation",
    activation: str = "relu",
    residual: bool = False,
    input_normalize: bool = True,
    group_count: int = 8,
    normalization_momentum: float = 0.99,
    gradient_checkpointing: bool = False,
) -> keras.Model:
    """Builds a FlexUNet under the global dtype policy.

    Level i of `num_layers` (the bridge included) has base_filters * 2**i channels and lies at 1 / 2**i of the image size. Encoder,
    bridge and decoder of a level share kernel, dilation and dropout rate. Down by 2x2 max-pooling, up by 2x2 transposed convolution.

    Args:
      image_size: (height, width) in pixels, both multiples of 2**(num_layers - 1); need not be square.
      image_channels: channels of the image, 1 or more.
      num_classes: 1 = one sigmoid logit; 2 or more = softmax over all classes.
      base_filters: channels of level 0.
      base_kernels: kernel of level 0, a number or (height, width), at least 3; level i has max(3, base - 2 * i).
      num_layers: levels with the bridge, 2 or more. Each one more takes about four times the weights.
      dropout_rate: level i drops this share times i between its two convolutions; level 0 drops nothing. The reference has
        no default and publishes 0.04 and 0.05.
      dilation: dilation of level 0, a number or (height, width); level i has max(1, dilation - i).
      normalization: "none", "batch", "sync_batch" or "group"; True and False of the reference mean "batch" and "none".
      normalization_position: "after_activation" as in the reference, or "before_activation" (then convolutions have no bias).
      activation: any Keras name; the reference knows "relu" and "mish".
      residual: adds a 1x1 projection of each block's input before its second activation (see blocks.conv_block).
      input_normalize: the network divides pixels by 255 itself.
      group_count: groups of channels for normalization="group"; must divide base_filters.
      normalization_momentum: share of the moving statistics that "batch" and "sync_batch" keep at each step; runs of a few hundred steps
        need less than Keras's 0.99.
      gradient_checkpointing: recompute the activations of each block in the backward pass instead of keeping them: less memory, a third more time.

    Returns:
      keras.Model: float32 [B, height, width, image_channels] of raw pixels 0..255 -> float32 logits [B, height, width, num_classes]
      (both float64 under the float64 policy). Pixels are scaled in that precision too, whatever the rest computes in.

    Raises:
      UserError: a value out of range, or an image size that the depth cannot halve often enough.
    """
    owner = "flex_unet"
    check_head(image_channels, num_classes, owner=owner)
    check_whole(base_filters, 1, owner=owner, name="base_filters")
    check_whole(num_layers, 2, owner=owner, name="num_layers")
    _check_image_size(image_size, num_layers)
    deepest = num_layers - 1
    check_rate(dropout_rate, owner=owner, times=deepest)
    if isinstance(normalization, bool):
        normalization = "batch" if normalization else "none"
    style = ConvStyle(
        owner=owner,
        activation=activation,
        normalization=normalization,
        normalization_position=normalization_position,
        group_count=group_count,
        momentum=normalization_momentum,
        gradient_checkpointing=gradient_checkpointing,
    )
    kernels, dilations = level_kernels(base_kernels, num_layers, owner=owner), level_dilations(dilation, num_layers, owner=owner)

    def block(x, level: int, part: str):
        return conv_block(
            x,
            style,
            name=part if level == deepest else f"{part}_{level}",
            filters=base_filters * 2**level,
            kernel=kernels[level],
            dilation=dilations[level],
            dropout_rate=dropout_rate * level,
            residual=residual,
        )

    inputs, x = image_input(image_size, image_channels, scale=input_normalize)
    skips = []
    for level in range(deepest):
        x = block(x, level, "encoder")
        skips.append(x)
        x = keras.layers.MaxPooling2D(name=f"encoder_{level}_pool")(x)
    x = block(x, deepest, "bridge")
    for level in reversed(range(deepest)):
        x = Conv2DTranspose(base_filters * 2**level, 2, strides=2, name=f"decoder_{level}_up")(x)  # glorot_uniform by default
        x = keras.layers.Concatenate(name=f"decoder_{level}_concat")([x, skips[level]])
        x = block(x, level, "decoder")
    return keras.Model(inputs, logits(x, num_classes), name="flex_unet")


def _check_image_size(image_size, num_layers: int) -> None:
    sides = image_size if isinstance(image_size, (tuple, list)) and all(isinstance(side, int) for side in image_size) else (1,)
    depth = next(n for n in range(num_layers, 0, -1) if not any(side % 2 ** (n - 1) for side in sides))
    fewer = f'--gin_param="flex_unet.num_layers={depth}"' if depth > 1 else ""
    because = f"2**(num_layers - 1), with flex_unet.num_layers = {num_layers}"
    check_image_size(image_size, 2 ** (num_layers - 1), because=because, alternative=fewer)
