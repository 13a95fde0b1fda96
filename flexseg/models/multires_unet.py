"""MultiResUNet: blocks of three convolutions in a row that are all kept, and skips that are convolved too (Ibtehaz & Rahman 2020, arXiv:1902.04049).

    model = multires_unet(image_size=(512, 512), image_channels=3, num_classes=2, base_filters=16, num_layers=8)

The reference's network, layer for layer; its paths have num_layers - i convolutions at level i, one more than the paper's. Fixed here: it ignored
kernel, dropout, dilation and activation, and its head was a softmax or a sigmoid whatever the number of classes.
"""

import dataclasses
from typing import Annotated, Literal

import gin
import keras

from flexseg.errors import UserError
from flexseg.models.layers.architecture import Without, architecture
from flexseg.models.layers.arguments import Rate, check_halvings
from flexseg.models.layers.blocks import conv_unit
from flexseg.models.layers.conv_style import ConvStyle
from flexseg.models.layers.convolutions import Conv2D, Conv2DTranspose
from flexseg.models.layers.inputs_outputs import logits
from flexseg.models.layers.levels import Levels
from flexseg.models.layers.task import Task

_ALPHA = 1.67  # of the paper: the block's width for the filters of the U-Net's level
_SHARES = (0.167, 0.333, 0.5)


@gin.configurable("multires_unet")
@architecture
def multires_unet(
    *,
    task: Task,
    levels: Levels = Levels(base_filters=16, num_layers=6, least_filters=4),
    dropout_rate: Rate = 0.0,
    style: Annotated[ConvStyle, Without("group_count")] = ConvStyle(),
    normalization: Literal["none", "batch", "sync_batch"] = "batch",
) -> keras.Model:
    """Builds a MultiResUNet under the global dtype policy: raw pixels [B, H, W, C] to logits [B, H, W, num_classes].

    A block has 1.67 times the channels of its level, in three parts of 1/6, 1/3 and 1/2. The kernels of the paths stay 3 x 3. Height and width are
    multiples of 2**(num_layers - 1).

    Args:
      dropout_rate: dropout behind every block; neither paper nor reference drop anything.
      normalization: "none", "batch" or "sync_batch", before the activation and once more behind every sum. Channels come in odd numbers, which no
        group would divide.
    """
    check_halvings(task.image_size, levels.num_layers, owner="multires_unet")
    if normalization == "group":
        cure = "--gin_param=\"multires_unet.normalization='sync_batch'\""
        raise UserError("multires_unet.normalization", expected="another one: no group divides its channels", found="'group'", cure=cure)
    style = dataclasses.replace(style, normalization=normalization)

    def block(x: keras.KerasTensor, level: int, name: str) -> keras.KerasTensor:
        parts = [int(_ALPHA * levels.filters[level] * share) for share in _SHARES]
        x = _block(x, style, name=name, parts=parts, kernel=levels.kernels[level], dilation=levels.dilations[level])
        return keras.layers.Dropout(dropout_rate, name=f"{name}_dropout")(x) if dropout_rate else x

    inputs, x = task.inputs()
    skips, deepest = [], levels.num_layers - 1
    for level in range(deepest):
        x = block(x, level, f"encoder_{level}")
        skips.append(_path(x, style, name=f"path_{level}", filters=levels.filters[level], length=levels.num_layers - level))
        x = keras.layers.MaxPooling2D(name=f"encoder_{level}_pool")(x)
    x = block(x, deepest, "bridge")
    for level in reversed(range(deepest)):
        x = Conv2DTranspose(levels.filters[level], 2, strides=2, name=f"decoder_{level}_up")(x)
        x = keras.layers.Concatenate(name=f"decoder_{level}_concat")([x, skips[level]])
        x = block(x, level, f"decoder_{level}")
    return keras.Model(inputs, logits(x, task.num_classes), name="multires_unet")


def _block(
    x: keras.KerasTensor, style: ConvStyle, *, name: str, parts: list[int], kernel: int | tuple[int, int], dilation: int | tuple[int, int]
) -> keras.KerasTensor:
    """Figure 3c of the paper: three convolutions in a row, all concatenated, plus a projection of the input; [B, H, W, sum of parts]."""
    shortcut, found = _linear(x, style, name=f"{name}_shortcut", filters=sum(parts)), []
    for letter, filters in zip("abc", parts, strict=True):
        x = conv_unit(x, style, name=f"{name}_{letter}", filters=filters, kernel=kernel, dilation=dilation)
        found.append(x)
    x = style.normalize(keras.layers.Concatenate(name=f"{name}_parts")(found), name=f"{name}_norm_parts")
    return _sum(x, shortcut, style, name=name)


def _path(x: keras.KerasTensor, style: ConvStyle, *, name: str, filters: int, length: int) -> keras.KerasTensor:
    """Figure 4 of the paper: `length` residual convolutions on a skip; [B, H, W, filters]."""
    for number in range(length):
        part = f"{name}_{number}"
        shortcut = _linear(x, style, name=f"{part}_shortcut", filters=filters)
        x = _sum(conv_unit(x, style, name=f"{part}_a", filters=filters), shortcut, style, name=part)
    return x


def _linear(x: keras.KerasTensor, style: ConvStyle, *, name: str, filters: int) -> keras.KerasTensor:
    return style.normalize(Conv2D(filters, 1, use_bias=style.use_bias, name=f"{name}_conv")(x), name=f"{name}_norm")


def _sum(x: keras.KerasTensor, shortcut: keras.KerasTensor, style: ConvStyle, *, name: str) -> keras.KerasTensor:
    x = keras.layers.Activation(style.activation, name=f"{name}_act_sum")(keras.layers.Add(name=f"{name}_add")([x, shortcut]))
    return style.normalize(x, name=f"{name}_norm_sum")
