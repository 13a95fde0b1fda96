"""UNet 3+: every level of the decoder sees every level of encoder and decoder (Huang et al. 2020, arXiv:2004.08790).

    model = unet3_plus(image_size=(512, 512), image_channels=3, num_classes=2, base_filters=64, num_layers=5, deep_supervision=True)

Mended here: the reference had five levels whatever `num_layers` said, one output channel under a softmax, which is 1 everywhere, and neither the
paper's deep supervision nor its classification-guided module.
"""

from typing import Literal

import gin
import keras

from flexseg.models.layers.blocks import ConvStyle, check_whole, conv_block, conv_unit, level_dilations, level_kernels
from flexseg.models.layers.convolutions import Conv2D
from flexseg.models.layers.inputs_outputs import check_head, check_image_size, check_rate, full_precision, image_input, logits
from flexseg.models.layers.upsampling import BilinearUpsampling


@gin.configurable("unet3_plus")
def unet3_plus(
    *,
    image_size: tuple[int, int],
    image_channels: int,
    num_classes: int,
    base_filters: int = 16,
    base_kernels: int | tuple[int, int] = (3, 3),
    num_layers: int = 5,
    dropout_rate: float = 0.0,
    dilation: int | tuple[int, int] = (1, 1),
    normalization: Literal["none", "batch", "sync_batch", "group"] = "batch",
    activation: str = "relu",
    deep_supervision: bool = True,
    classification_guided: bool = False,
    input_normalize: bool = True,
    group_count: int = 8,
    normalization_momentum: float = 0.99,
) -> keras.Model:
    """Builds a UNet 3+ under the global dtype policy.

    Level i of `num_layers` has base_filters * 2**i channels in the encoder; in the decoder every level has num_layers * base_filters.

    Args:
      image_size: (height, width) in pixels, both multiples of 2**(num_layers - 1).
      image_channels: channels of the image.
      num_classes: 1 = one sigmoid logit; 2 or more = softmax over all classes.
      base_filters: of level 0: 64 in the paper.
      base_kernels: of the encoder's level 0, a number or (height, width), at least 3; level i has max(3, base - 2 * i). The decoder's are 3 x 3.
      num_layers: levels, 2 or more: 5 in the paper.
      dropout_rate: level i of the encoder drops this share times i between its two convolutions; the paper drops nothing.
      dilation: of the encoder's level 0, a number or (height, width); level i has max(1, dilation - i).
      normalization: "none", "batch", "sync_batch" or "group", before every activation.
      activation: any Keras name of ACTIVATIONS.
      deep_supervision: an output of every level beside the main one, for `objective.output_weights`.
      classification_guided: the deepest level says for every class whether the image has any of it, and every output's probabilities are
        multiplied by that. The paper decides hard and learns from a label of its own; here it is a factor, learnt from the masks alone.
      input_normalize: the network divides pixels by 255 itself.
      group_count: groups of channels for normalization="group".
      normalization_momentum: share of the moving statistics that "batch" and "sync_batch" keep at each step.

    Returns:
      keras.Model: float32 [B, height, width, image_channels] of raw pixels 0..255 -> float32 logits [B, height, width, num_classes], or with
      deep supervision a list of num_layers such.

    Raises:
      UserError: a value out of range, or an image size that the depth cannot halve often enough.
    """
    owner = "unet3_plus"
    check_head(image_channels, num_classes, owner=owner)
    check_whole(base_filters, 1, owner=owner, name="base_filters")
    check_whole(num_layers, 2, owner=owner, name="num_layers")
    check_rate(dropout_rate, owner=owner, times=num_layers - 1)
    check_image_size(image_size, 2 ** (num_layers - 1), because=f"2**(num_layers - 1), with {owner}.num_layers = {num_layers}")
    style = ConvStyle(owner=owner, activation=activation, normalization=normalization, group_count=group_count, momentum=normalization_momentum)
    kernels, dilations = level_kernels(base_kernels, num_layers, owner=owner), level_dilations(dilation, num_layers, owner=owner)
    inputs, x = image_input(image_size, image_channels, scale=input_normalize)
    encoded = []
    for level in range(num_layers):
        if level:
            x = keras.layers.MaxPooling2D(name=f"encoder_{level - 1}_pool")(x)
        options = {"filters": base_filters * 2**level, "kernel": kernels[level], "dilation": dilations[level]}
        x = conv_block(x, style, name=f"encoder_{level}", **options, dropout_rate=dropout_rate * level)
        encoded.append(x)
    decoded = {num_layers - 1: x}
    for level in reversed(range(num_layers - 1)):
        branches = [_branch(encoded[other], style, at=level, of=other, filters=base_filters) for other in range(level + 1)]
        branches += [_branch(decoded[other], style, at=level, of=other, filters=base_filters) for other in range(level + 1, num_layers)]
        fused = keras.layers.Concatenate(name=f"decoder_{level}_concat")(branches)
        decoded[level] = conv_unit(fused, style, name=f"decoder_{level}_a", filters=num_layers * base_filters)
    levels = range(num_layers) if deep_supervision else range(1)
    outputs = [
        logits(decoded[level], num_classes, kernel=3, name=f"side_{level}" if level else "logits", upsample_factor=2**level) for level in levels
    ]
    if classification_guided:
        outputs = _guided(outputs, decoded[num_layers - 1], num_classes)
    return keras.Model(inputs, outputs if deep_supervision else outputs[0], name=owner)


def _branch(x, style: ConvStyle, *, at: int, of: int, filters: int):
    """Level `of` at the size of level `at`, figure 2 of the paper: [B, H, W, filters]."""
    name = f"decoder_{at}_from_{of}"
    if of < at:
        x = keras.layers.MaxPooling2D(2 ** (at - of), name=f"{name}_pool")(x)
    elif of > at:
        x = BilinearUpsampling(2 ** (of - at), name=f"{name}_up")(x)
    return conv_unit(x, style, name=f"{name}_a", filters=filters)


def _guided(outputs: list, deepest, num_classes: int) -> list:
    """Section 2.3 of the paper with a soft decision: log(p · present) = logit + log(present), up to the softmax's own normalization."""
    full = full_precision()
    x = keras.layers.Dropout(0.5, name="presence_dropout")(deepest)
    x = keras.layers.GlobalMaxPooling2D(keepdims=True, name="presence_pool", dtype=full)(Conv2D(num_classes, 1, name="presence_conv", dtype=full)(x))
    x = keras.layers.Activation("log_sigmoid", name="presence", dtype=full)(x)
    return [keras.layers.Add(name=f"guided_{place}", dtype=full)([output, x]) for place, output in enumerate(outputs)]
