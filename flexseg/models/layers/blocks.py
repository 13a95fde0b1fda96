"""Convolutions with what follows them: one (conv_unit), or two with dropout and a shortcut (conv_block).

    style = ConvStyle(owner="my_net", activation="mish", normalization="group")
    x = conv_block(x, style, name="encoder_0", filters=16, kernel=(9, 9), dropout_rate=0.04, residual=True)

Weights start as in the reference: `he_normal` for the convolutions. A layer's name says where it stands in the
network, in a summary, a checkpoint and TensorBoard. Nothing here fixes a precision: layers follow the global dtype policy.
"""

import dataclasses
from typing import Any

import keras

from flexseg.models.layers.conv_style import ConvStyle
from flexseg.models.layers.convolutions import Conv2D
from flexseg.models.layers.gradient_checkpointing import with_gradient_checkpointing


def conv_unit(
    x: keras.KerasTensor,
    style: ConvStyle,
    *,
    name: str,
    filters: int,
    kernel: int | tuple[int, int] = (3, 3),
    dilation: int | tuple[int, int] = (1, 1),
    strides: int = 1,
    dropout_rate: float = 0.0,
    shortcut: keras.KerasTensor | None = None,
) -> keras.KerasTensor:
    """Convolution ("same", he_normal) [→ dropout] [→ normalization] [+ shortcut] → activation [→ normalization].

    Args:
      x: [B, H, W, any]. style: see ConvStyle. filters: channels of the result.
      name: "{part}_{letter}", such as "encoder_0_a"; the layers become "encoder_0_conv_a", "encoder_0_norm_a", "encoder_0_act_a".
      shortcut: None, or [B, H, W, filters] that is added directly before the activation.

    Returns: [B, H / strides, W / strides, filters].
    """
    part, letter = name.rsplit("_", 1)
    normalize_first = style.normalization != "none" and style.normalization_position == "before_activation"
    x = Conv2D(
        filters,
        kernel,
        padding="same",
        dilation_rate=dilation,
        strides=strides,
        kernel_initializer="he_normal",
        use_bias=not normalize_first,
        name=f"{part}_conv_{letter}",
    )(x)
    if dropout_rate:
        x = keras.layers.Dropout(dropout_rate, name=f"{part}_dropout_{letter}")(x)
    if normalize_first:
        x = style.normalize(x, name=f"{part}_norm_{letter}")
    if shortcut is not None:
        x = keras.layers.Add(name=f"{part}_add")([x, shortcut])
    x = keras.layers.Activation(style.activation, name=f"{part}_act_{letter}")(x)
    return x if normalize_first else style.normalize(x, name=f"{part}_norm_{letter}")


def conv_block(
    x: keras.KerasTensor,
    style: ConvStyle,
    *,
    name: str,
    filters: int,
    kernel: int | tuple[int, int] = (3, 3),
    dilation: int | tuple[int, int] = (1, 1),
    dropout_rate: float = 0.0,
    residual: bool = False,
) -> keras.KerasTensor:
    """Two conv_units "a" and "b" with dropout between them (no layer where the rate is 0).

    `residual` adds a 1x1 projection of the block's input, without bias (the second convolution or its normalization has one) and
    started with glorot_uniform as a linear map, directly before the second activation (He et al. 2015, arXiv:1512.03385, figure 2).

    Returns: [B, H, W, filters].
    """
    if style.gradient_checkpointing:
        plain = dataclasses.replace(style, gradient_checkpointing=False)
        options: dict[str, Any] = {"filters": filters, "kernel": kernel, "dilation": dilation, "dropout_rate": dropout_rate, "residual": residual}
        return with_gradient_checkpointing(lambda x: conv_block(x, plain, name=name, **options), x, name=name)
    shortcut = Conv2D(filters, 1, use_bias=False, name=f"{name}_shortcut")(x) if residual else None
    x = conv_unit(x, style, name=f"{name}_a", filters=filters, kernel=kernel, dilation=dilation)
    if dropout_rate:
        x = keras.layers.Dropout(dropout_rate, name=f"{name}_dropout")(x)
    return conv_unit(x, style, name=f"{name}_b", filters=filters, kernel=kernel, dilation=dilation, shortcut=shortcut)
