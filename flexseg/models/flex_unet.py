"""FlexUNet, also known as SlightlyFlexibleUNet: the reference's U-Net whose kernels and dilations shrink with depth.

    model = flex_unet(image_size=(512, 512), image_channels=3, num_classes=2, base_kernels=(9, 9), num_layers=8)
    logits = model(images)                                   # raw pixels [B, 512, 512, 3] -> float32 [B, 512, 512, 2]

With normalization="none" and residual=False it is the reference network weight for weight (parameter counts are tests); only the
last sigmoid or softmax lies outside, in loss and prediction. Normalization other than batch after the activation, and residual
blocks, are additions. Weights of the reference's .h5 files are not read.
"""

from typing import Literal

import gin
import keras
import numpy as np

from flexseg.errors import UserError
from flexseg.models.blocks import ConvStyle, check_whole, conv_block, level_dilations, level_kernels
from flexseg.models.convolutions import Conv2DTranspose


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
    remat: bool = False,
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
      remat: computes the activations of each block again in the backward pass instead of keeping them: less memory, about a third more time.

    Returns:
      keras.Model: float32 [B, height, width, image_channels] of raw pixels 0..255 -> float32 logits [B, height, width, num_classes]
      (both float64 under the float64 policy). Pixels are scaled in that precision too, whatever the rest computes in.

    Raises:
      UserError: a value out of range, or an image size that the depth cannot halve often enough.
    """
    owner = "flex_unet"
    for name, value in (("image_channels", image_channels), ("num_classes", num_classes), ("base_filters", base_filters)):
        check_whole(value, 1, owner=owner, name=name)
    check_whole(num_layers, 2, owner=owner, name="num_layers")
    _check_image_size(image_size, num_layers)
    deepest = num_layers - 1
    if not isinstance(dropout_rate, (int, float)) or not 0 <= dropout_rate * deepest < 1:
        raise UserError(
            "flex_unet.dropout_rate", found=repr(dropout_rate),
            expected=f"a share from 0 to below 1/{deepest}, because the bridge of {num_layers} layers drops {deepest} times as much",
            cure='for example --gin_param="flex_unet.dropout_rate=0.04"',
        )
    if isinstance(normalization, bool):
        normalization = "batch" if normalization else "none"
    style = ConvStyle(
        owner=owner, activation=activation, normalization=normalization, normalization_position=normalization_position, group_count=group_count,
        momentum=normalization_momentum, remat=remat,
    )
    kernels, dilations = level_kernels(base_kernels, num_layers, owner=owner), level_dilations(dilation, num_layers, owner=owner)

    def block(x, level: int, part: str):
        return conv_block(
            x, style, name=part if level == deepest else f"{part}_{level}", filters=base_filters * 2**level, kernel=kernels[level],
            dilation=dilations[level], dropout_rate=dropout_rate * level, residual=residual,
        )

    # Pixels and logits keep full precision: 16 bits would round the former and overflow in sums over the latter.
    full = "float64" if keras.config.dtype_policy().variable_dtype == "float64" else "float32"
    x = inputs = keras.Input((*image_size, image_channels), dtype=full, name="image")
    if input_normalize:
        # A Python float would pass through float32 on its way to a float64 layer.
        x = keras.layers.Rescaling(np.float64(1 / 255), dtype=full, name="scale_pixels")(x)
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
    return keras.Model(inputs, keras.layers.Conv2D(num_classes, 1, dtype=full, name="logits")(x), name="flex_unet")


def _check_image_size(image_size, num_layers: int) -> None:
    sides = tuple(image_size) if isinstance(image_size, (tuple, list)) else ()
    if len(sides) != 2:
        raise UserError(
            "input.image_size", expected="(height, width) in pixels", found=repr(image_size),
            cure='for example --gin_param="input.image_size=(512, 512)"',
        )
    for side in sides:
        check_whole(side, 1, owner="input", name="image_size")
    step = 2 ** (num_layers - 1)
    if any(side % step for side in sides):
        below, above = (tuple(max(step, (side + up) // step * step) for side in sides) for up in (0, step - 1))
        depth = next(n for n in range(num_layers, 0, -1) if not any(side % 2 ** (n - 1) for side in sides))
        sizes = " or ".join(f'--gin_param="input.image_size={size}"' for size in dict.fromkeys((below, above)))
        fewer = f', or --gin_param="flex_unet.num_layers={depth}"' if depth > 1 else ""
        raise UserError(
            "input.image_size", found=f"{sides[0]} x {sides[1]}", cure=sizes + fewer,
            expected=f"height and width that are multiples of {step} = 2**(num_layers - 1), with flex_unet.num_layers = {num_layers}",
        )
