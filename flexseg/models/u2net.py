"""U²-Net: a U-Net whose every block is a small U-Net (Qin et al. 2020, arXiv:2005.09007).

    model = u2net(image_size=(320, 320), image_channels=3, num_classes=1, base_filters=64, num_layers=6)      # the paper's

Widths and depths are the paper's, for any number of layers. Mended here: the reference put sigmoids on the side outputs and on what they were fused
to, for several classes too, had no normalization, and doubled the width without end: 783 million weights with its own settings for TNBC. Biases
before a batch normalization, which takes them out again, are left out: the authors' 44,009,869 weights are this one's plus theirs.
"""

from typing import Literal

import gin
import keras

from flexseg.models.layers.blocks import ConvStyle, check_whole, conv_unit
from flexseg.models.layers.inputs_outputs import check_head, check_image_size, check_rate, image_input, logits
from flexseg.models.layers.upsampling import BilinearUpsampling


@gin.configurable("u2net")
def u2net(
    *,
    image_size: tuple[int, int],
    image_channels: int,
    num_classes: int,
    base_filters: int = 16,
    num_layers: int = 6,
    dropout_rate: float = 0.0,
    normalization: Literal["none", "batch", "sync_batch", "group"] = "batch",
    activation: str = "relu",
    deep_supervision: bool = True,
    input_normalize: bool = True,
    group_count: int = 4,
    normalization_momentum: float = 0.99,
) -> keras.Model:
    """Builds a U²-Net under the global dtype policy.

    Kernels are 3 x 3 and dilations 1, 2, 4 and 8, as the blocks are made of them. Of `num_layers` stages the last two are dilated and of the
    width of the one before; stage i before them is a U of num_layers + 1 - i levels and base_filters * 2**i channels.

    Args:
      image_size: (height, width) in pixels, both multiples of 2**(num_layers - 1).
      image_channels: channels of the image.
      num_classes: 1 = one sigmoid logit; 2 or more = softmax over all classes.
      base_filters: of stage 0, 4 or more: 64 in the paper.
      num_layers: stages, 4 or more: 6 in the paper.
      dropout_rate: behind every stage; the paper drops nothing.
      normalization: "none", "batch", "sync_batch" or "group", before every activation.
      activation: any Keras name of ACTIVATIONS.
      deep_supervision: the side outputs of all stages beside what they are fused to, for `objective.output_weights`.
      input_normalize: the network divides pixels by 255 itself.
      group_count: groups of channels for normalization="group".
      normalization_momentum: share of the moving statistics that "batch" and "sync_batch" keep at each step.

    Returns:
      keras.Model: float32 [B, height, width, image_channels] of raw pixels 0..255 -> float32 logits [B, height, width, num_classes], or with
      deep supervision a list of 1 + num_layers such.

    Raises:
      UserError: a value out of range, or an image size that the depth cannot halve often enough.
    """
    owner = "u2net"
    check_head(image_channels, num_classes, owner=owner)
    check_whole(base_filters, 4, owner=owner, name="base_filters")
    check_whole(num_layers, 4, owner=owner, name="num_layers")
    check_rate(dropout_rate, owner=owner)
    check_image_size(image_size, 2 ** (num_layers - 1), because=f"2**(num_layers - 1), with {owner}.num_layers = {num_layers}")
    style = ConvStyle(owner=owner, activation=activation, normalization=normalization, group_count=group_count, momentum=normalization_momentum)
    dilated = num_layers - 2  # the first of the two dilated stages
    widths = [base_filters * 2 ** min(stage, dilated - 1) for stage in range(num_layers)]

    def stage_of(x, stage: int, *, name: str, filters: int, inner: int):
        if stage >= dilated:
            x = _dilated_block(x, style, name=name, filters=filters, inner=filters // 2)
        else:
            x = _u_block(x, style, name=name, filters=filters, inner=inner, depth=num_layers + 1 - stage)
        return keras.layers.Dropout(dropout_rate, name=f"{name}_dropout")(x) if dropout_rate else x

    inputs, x = image_input(image_size, image_channels, scale=input_normalize)
    skips = []
    for stage, filters in enumerate(widths):
        x = stage_of(x, stage, name=f"encoder_{stage}", filters=filters, inner=max(filters // 4, base_filters // 2))
        skips.append(x)
        if stage < num_layers - 1:
            x = keras.layers.MaxPooling2D(name=f"encoder_{stage}_pool")(x)
    sides = [logits(x, num_classes, kernel=3, name=f"side_{num_layers - 1}", upsample_factor=2 ** (num_layers - 1))]
    for stage in reversed(range(num_layers - 1)):
        x = BilinearUpsampling(2, name=f"decoder_{stage}_up")(x)
        x = keras.layers.Concatenate(name=f"decoder_{stage}_concat")([x, skips[stage]])
        x = stage_of(x, stage, name=f"decoder_{stage}", filters=widths[max(0, stage - 1)], inner=widths[stage] // 4)
        sides.insert(0, logits(x, num_classes, kernel=3, name=f"side_{stage}", upsample_factor=2**stage))
    fused = logits(keras.layers.Concatenate(name="sides", dtype=sides[0].dtype)(sides), num_classes)
    return keras.Model(inputs, [fused, *sides] if deep_supervision else fused, name=owner)


def _u_block(x, style: ConvStyle, *, name: str, filters: int, inner: int, depth: int):
    """RSU-depth of the paper's figure 2: a U of depth - 2 halvings, plus its own input; [B, H, W, filters]."""
    x = entry = conv_unit(x, style, name=f"{name}_entry_a", filters=filters)
    skips = []
    for level in range(depth - 1):
        x = conv_unit(x, style, name=f"{name}_down_{level}_a", filters=inner)
        skips.append(x)
        if level < depth - 2:
            x = keras.layers.MaxPooling2D(name=f"{name}_down_{level}_pool")(x)
    x = conv_unit(x, style, name=f"{name}_bottom_a", filters=inner, dilation=(2, 2))
    for level in reversed(range(depth - 1)):
        x = keras.layers.Concatenate(name=f"{name}_up_{level}_concat")([x, skips[level]])
        x = conv_unit(x, style, name=f"{name}_up_{level}_a", filters=inner if level else filters)
        if level:
            x = BilinearUpsampling(2, name=f"{name}_up_{level}_raise")(x)
    return keras.layers.Add(name=f"{name}_add")([x, entry])


def _dilated_block(x, style: ConvStyle, *, name: str, filters: int, inner: int):
    """RSU-4F of the paper: the same with dilations 1, 2, 4 and 8 in place of halvings; [B, H, W, filters]."""
    x = entry = conv_unit(x, style, name=f"{name}_entry_a", filters=filters)
    skips = []
    for level in range(4):
        x = conv_unit(x, style, name=f"{name}_down_{level}_a", filters=inner, dilation=(2**level,) * 2)
        skips.append(x)
    for level in reversed(range(3)):
        x = keras.layers.Concatenate(name=f"{name}_up_{level}_concat")([x, skips[level]])
        x = conv_unit(x, style, name=f"{name}_up_{level}_a", filters=inner if level else filters, dilation=(2**level,) * 2)
    return keras.layers.Add(name=f"{name}_add")([x, entry])
