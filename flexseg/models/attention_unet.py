"""AttentionUNet: a U-Net whose skips pass through gates that the coarser level controls (Oktay et al. 2018, arXiv:1804.03999).

    model = attention_unet(image_size=(512, 512), image_channels=3, num_classes=2, base_filters=16, num_layers=8)

The reference's network: bilinear raising, constant dropout, gates of as many channels as the skip (the paper's have one: gate_channels="one").
Mended here: the reference ignored kernel, dilation and activation, and ended in a softmax even for one class. Its convolutions carried biases
directly before a batch normalization, which takes them out again; these are left out, and its parameter count is this one's plus theirs.
"""

from typing import Literal

import gin
import keras

from flexseg.models.layers.blocks import ConvStyle, check_choice, check_whole, conv_unit, level_dilations, level_kernels
from flexseg.models.layers.convolutions import Conv2D
from flexseg.models.layers.inputs_outputs import check_head, check_image_size, check_rate, image_input, logits
from flexseg.models.layers.upsampling import BilinearUpsampling


@gin.configurable("attention_unet")
def attention_unet(
    *,
    image_size: tuple[int, int],
    image_channels: int,
    num_classes: int,
    base_filters: int = 16,
    base_kernels: int | tuple[int, int] = (3, 3),
    num_layers: int = 6,
    dropout_rate: float = 0.1,
    dilation: int | tuple[int, int] = (1, 1),
    normalization: Literal["none", "batch", "sync_batch", "group"] = "batch",
    activation: str = "relu",
    gate_channels: Literal["each", "one"] = "each",
    input_normalize: bool = True,
    group_count: int = 8,
    normalization_momentum: float = 0.99,
) -> keras.Model:
    """Builds an AttentionUNet under the global dtype policy.

    Level i of `num_layers` (the bridge included) has base_filters * 2**i channels at 1 / 2**i of the image size.

    Args:
      image_size: (height, width) in pixels, both multiples of 2**(num_layers - 1).
      image_channels: channels of the image.
      num_classes: 1 = one sigmoid logit; 2 or more = softmax over all classes.
      base_filters: channels of level 0.
      base_kernels: kernel of level 0, a number or (height, width), at least 3; level i has max(3, base - 2 * i).
      num_layers: levels with the bridge, 2 or more.
      dropout_rate: in every block before its second normalization, and in every gate on the skip's side.
      dilation: of level 0, a number or (height, width); level i has max(1, dilation - i).
      normalization: "none", "batch", "sync_batch" or "group", before every activation.
      activation: any Keras name of ACTIVATIONS.
      gate_channels: a gate's factors: "each" channel of the skip has its own (the reference), or "one" for all (the paper).
      input_normalize: the network divides pixels by 255 itself.
      group_count: groups of channels for normalization="group".
      normalization_momentum: share of the moving statistics that "batch" and "sync_batch" keep at each step.

    Returns:
      keras.Model: float32 [B, height, width, image_channels] of raw pixels 0..255 -> float32 logits [B, height, width, num_classes].

    Raises:
      UserError: a value out of range, or an image size that the depth cannot halve often enough.
    """
    owner = "attention_unet"
    check_head(image_channels, num_classes, owner=owner)
    check_whole(base_filters, 1, owner=owner, name="base_filters")
    check_whole(num_layers, 2, owner=owner, name="num_layers")
    check_rate(dropout_rate, owner=owner)
    check_choice(gate_channels, ("each", "one"), owner=owner, name="gate_channels")
    check_image_size(image_size, 2 ** (num_layers - 1), because=f"2**(num_layers - 1), with {owner}.num_layers = {num_layers}")
    style = ConvStyle(owner=owner, activation=activation, normalization=normalization, group_count=group_count, momentum=normalization_momentum)
    kernels, dilations = level_kernels(base_kernels, num_layers, owner=owner), level_dilations(dilation, num_layers, owner=owner)

    def block(x, level: int, name: str):
        options = {"filters": base_filters * 2**level, "kernel": kernels[level], "dilation": dilations[level]}
        x = conv_unit(x, style, name=f"{name}_a", **options)
        return conv_unit(x, style, name=f"{name}_b", **options, dropout_rate=dropout_rate)

    inputs, x = image_input(image_size, image_channels, scale=input_normalize)
    skips = []
    for level in range(num_layers - 1):
        x = block(x, level, f"encoder_{level}")
        skips.append(x)
        x = keras.layers.MaxPooling2D(name=f"encoder_{level}_pool")(x)
    x = block(x, num_layers - 1, "bridge")
    for level in reversed(range(num_layers - 1)):
        x = BilinearUpsampling(2, name=f"decoder_{level}_up")(x)
        filters = base_filters * 2**level
        channels = filters if gate_channels == "each" else 1
        skip = _gated(skips[level], x, style, name=f"gate_{level}", filters=filters, channels=channels, dropout_rate=dropout_rate)
        x = keras.layers.Concatenate(name=f"decoder_{level}_concat")([x, skip])
        x = block(x, level, f"decoder_{level}")
    return keras.Model(inputs, logits(x, num_classes), name=owner)


def _gated(skip, signal, style: ConvStyle, *, name: str, filters: int, channels: int, dropout_rate: float):
    """The additive gate of the paper's figure 2, on a signal raised to the skip's size: [B, H, W, filters] twice -> [B, H, W, filters]."""
    sides = []
    for side, x in (("signal", signal), ("skip", skip)):
        x = Conv2D(filters, 1, use_bias=style.normalization == "none", name=f"{name}_{side}_conv")(x)
        if dropout_rate and side == "skip":
            x = keras.layers.Dropout(dropout_rate, name=f"{name}_{side}_dropout")(x)
        sides.append(style.normalize(x, name=f"{name}_{side}_norm"))
    x = keras.layers.Activation(style.activation, name=f"{name}_act")(keras.layers.Add(name=f"{name}_add")(sides))
    x = Conv2D(channels, 1, name=f"{name}_factor")(x)
    return keras.layers.Multiply(name=f"{name}_multiply")([skip, keras.layers.Activation("sigmoid", name=f"{name}_sigmoid")(x)])
