"""MultiResUNet: blocks of three convolutions in a row that are all kept, and skips that are convolved too (Ibtehaz & Rahman 2020, arXiv:1902.04049).

    model = multires_unet(image_size=(512, 512), image_channels=3, num_classes=2, base_filters=16, num_layers=8)

The reference's network, layer for layer; its paths have num_layers - i convolutions at level i, one more than the paper's. Mended here: it ignored
kernel, dropout, dilation and activation, and its head was a softmax or a sigmoid whatever the number of classes.
"""

from typing import Literal

import gin
import keras

from flexseg.errors import UserError
from flexseg.models.layers.blocks import ConvStyle, check_whole, conv_unit, level_dilations, level_kernels
from flexseg.models.layers.convolutions import Conv2D, Conv2DTranspose
from flexseg.models.layers.inputs_outputs import check_head, check_image_size, check_rate, image_input, logits

_ALPHA = 1.67  # of the paper: the block's width for the filters of the U-Net's level
_SHARES = (0.167, 0.333, 0.5)


@gin.configurable("multires_unet")
def multires_unet(
    *,
    image_size: tuple[int, int],
    image_channels: int,
    num_classes: int,
    base_filters: int = 16,
    base_kernels: int | tuple[int, int] = (3, 3),
    num_layers: int = 6,
    dropout_rate: float = 0.0,
    dilation: int | tuple[int, int] = (1, 1),
    normalization: Literal["none", "batch", "sync_batch"] = "batch",
    activation: str = "relu",
    input_normalize: bool = True,
    normalization_momentum: float = 0.99,
) -> keras.Model:
    """Builds a MultiResUNet under the global dtype policy.

    Args:
      image_size: (height, width) in pixels, both multiples of 2**(num_layers - 1).
      image_channels: channels of the image.
      num_classes: 1 = one sigmoid logit; 2 or more = softmax over all classes.
      base_filters: of the U-Net whose level 0 a block stands for; a block has 1.67 times as many channels, in three parts of 1/6, 1/3 and 1/2.
      base_kernels: kernel of level 0, a number or (height, width), at least 3; level i has max(3, base - 2 * i). The paths' stay 3 x 3.
      num_layers: levels with the bridge, 2 or more.
      dropout_rate: behind every block; neither paper nor reference drop anything.
      dilation: of level 0, a number or (height, width); level i has max(1, dilation - i).
      normalization: "none", "batch" or "sync_batch", before the activation and once more behind every sum. Channels come in odd numbers, which no
        group would divide.
      activation: any Keras name of ACTIVATIONS.
      input_normalize: the network divides pixels by 255 itself.
      normalization_momentum: share of the moving statistics that "batch" and "sync_batch" keep at each step.

    Returns:
      keras.Model: float32 [B, height, width, image_channels] of raw pixels 0..255 -> float32 logits [B, height, width, num_classes].

    Raises:
      UserError: a value out of range, or an image size that the depth cannot halve often enough.
    """
    owner = "multires_unet"
    check_head(image_channels, num_classes, owner=owner)
    check_whole(base_filters, 4, owner=owner, name="base_filters")
    check_whole(num_layers, 2, owner=owner, name="num_layers")
    check_rate(dropout_rate, owner=owner)
    check_image_size(image_size, 2 ** (num_layers - 1), because=f"2**(num_layers - 1), with {owner}.num_layers = {num_layers}")
    if normalization == "group":
        cure = f"--gin_param=\"{owner}.normalization='sync_batch'\""
        raise UserError(f"{owner}.normalization", expected="another one: no group divides its channels", found="'group'", cure=cure)
    style = ConvStyle(owner=owner, activation=activation, normalization=normalization, momentum=normalization_momentum)
    kernels, dilations = level_kernels(base_kernels, num_layers, owner=owner), level_dilations(dilation, num_layers, owner=owner)

    def block(x, level: int, name: str):
        width = _ALPHA * base_filters * 2**level
        x = _block(x, style, name=name, parts=[int(width * share) for share in _SHARES], kernel=kernels[level], dilation=dilations[level])
        return keras.layers.Dropout(dropout_rate, name=f"{name}_dropout")(x) if dropout_rate else x

    inputs, x = image_input(image_size, image_channels, scale=input_normalize)
    skips = []
    for level in range(num_layers - 1):
        x = block(x, level, f"encoder_{level}")
        skips.append(_path(x, style, name=f"path_{level}", filters=base_filters * 2**level, length=num_layers - level))
        x = keras.layers.MaxPooling2D(name=f"encoder_{level}_pool")(x)
    x = block(x, num_layers - 1, "bridge")
    for level in reversed(range(num_layers - 1)):
        x = Conv2DTranspose(base_filters * 2**level, 2, strides=2, name=f"decoder_{level}_up")(x)
        x = keras.layers.Concatenate(name=f"decoder_{level}_concat")([x, skips[level]])
        x = block(x, level, f"decoder_{level}")
    return keras.Model(inputs, logits(x, num_classes), name=owner)


def _block(x, style: ConvStyle, *, name: str, parts: list[int], kernel, dilation):
    """Figure 3c of the paper: three convolutions in a row, all concatenated, plus a projection of the input; [B, H, W, sum of parts]."""
    shortcut, found = _linear(x, style, name=f"{name}_shortcut", filters=sum(parts)), []
    for letter, filters in zip("abc", parts, strict=True):
        x = conv_unit(x, style, name=f"{name}_{letter}", filters=filters, kernel=kernel, dilation=dilation)
        found.append(x)
    x = style.normalize(keras.layers.Concatenate(name=f"{name}_parts")(found), name=f"{name}_norm_parts")
    return _sum(x, shortcut, style, name=name)


def _path(x, style: ConvStyle, *, name: str, filters: int, length: int):
    """Figure 4 of the paper: `length` residual convolutions on a skip; [B, H, W, filters]."""
    for number in range(length):
        place = f"{name}_{number}"
        shortcut = _linear(x, style, name=f"{place}_shortcut", filters=filters)
        x = _sum(conv_unit(x, style, name=f"{place}_a", filters=filters), shortcut, style, name=place)
    return x


def _linear(x, style: ConvStyle, *, name: str, filters: int):
    x = Conv2D(filters, 1, use_bias=style.normalization == "none", name=f"{name}_conv")(x)
    return style.normalize(x, name=f"{name}_norm")


def _sum(x, shortcut, style: ConvStyle, *, name: str):
    x = keras.layers.Activation(style.activation, name=f"{name}_act_sum")(keras.layers.Add(name=f"{name}_add")([x, shortcut]))
    return style.normalize(x, name=f"{name}_norm_sum")
