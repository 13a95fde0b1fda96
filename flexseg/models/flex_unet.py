"""FlexUNet, also known as SlightlyFlexibleUNet: the reference's U-Net whose kernels and dilations shrink with depth.

    model = flex_unet(image_size=(512, 512), image_channels=3, num_classes=2, base_kernels=(9, 9), num_layers=8)
    logits = model(images)                                   # raw pixels [B, 512, 512, 3] -> float32 [B, 512, 512, 2]

With normalization="none" and residual=False it is the reference network weight for weight (parameter counts are tests); only the
last sigmoid or softmax lies outside, in loss and prediction. Normalization other than batch after the activation, and residual
blocks, are additions. `flexseg train --init_from=best_model.h5` reads the weights of the reference's checkpoints.
"""

import dataclasses
from typing import Literal

import gin
import keras

from flexseg.models.layers.architecture import architecture
from flexseg.models.layers.arguments import check_halvings, check_rate
from flexseg.models.layers.blocks import conv_block
from flexseg.models.layers.conv_style import ConvStyle
from flexseg.models.layers.convolutions import Conv2DTranspose
from flexseg.models.layers.inputs_outputs import logits
from flexseg.models.layers.levels import Levels
from flexseg.models.layers.task import Task


@gin.configurable("flex_unet")
@architecture
def flex_unet(
    *,
    task: Task,
    levels: Levels = Levels(base_filters=16, num_layers=6),
    residual: bool = False,
    dropout_rate: float = 0.04,
    style: ConvStyle = ConvStyle(),
    normalization: Literal["none", "batch", "sync_batch", "group", True, False] = "none",
    normalization_position: Literal["after_activation", "before_activation"] = "after_activation",
    gradient_checkpointing: bool = False,
) -> keras.Model:
    """Builds a FlexUNet under the global dtype policy: raw pixels [B, H, W, C] to logits [B, H, W, num_classes].

    Encoder, bridge and decoder of a level share kernel, dilation and dropout rate. Down by 2x2 max-pooling, up by 2x2 transposed convolution.
    Height and width are multiples of 2**(num_layers - 1), and need not be equal.

    Args:
      residual: adds a 1x1 projection of each block's input before its second activation (see blocks.conv_block).
      dropout_rate: level i drops this share times i between its two convolutions; level 0 drops nothing. The reference has
        no default and publishes 0.04 and 0.05.
      normalization: "none", "batch", "sync_batch" or "group"; True and False of the reference mean "batch" and "none".
      normalization_position: "after_activation" as in the reference, or "before_activation" (then convolutions have no bias).
      gradient_checkpointing: computes the activations of each block again in the backward pass instead of keeping them: less memory, a third more
        time.
    """
    num_layers, deepest = levels.num_layers, levels.num_layers - 1
    check_halvings(task.image_size, num_layers, owner="flex_unet", alternative=_fewer_layers(task.image_size, num_layers))
    check_rate(dropout_rate, owner="flex_unet", times=deepest)
    if isinstance(normalization, bool):
        normalization = "batch" if normalization else "none"
    style = dataclasses.replace(
        style, normalization=normalization, normalization_position=normalization_position, gradient_checkpointing=gradient_checkpointing
    )

    def block(x: keras.KerasTensor, level: int, part: str) -> keras.KerasTensor:
        name = part if level == deepest else f"{part}_{level}"
        return conv_block(x, style, name=name, **levels.conv(level), dropout_rate=dropout_rate * level, residual=residual)

    inputs, x = task.inputs()
    skips = []
    for level in range(deepest):
        x = block(x, level, "encoder")
        skips.append(x)
        x = keras.layers.MaxPooling2D(name=f"encoder_{level}_pool")(x)
    x = block(x, deepest, "bridge")
    for level in reversed(range(deepest)):
        x = Conv2DTranspose(levels.filters[level], 2, strides=2, name=f"decoder_{level}_up")(x)  # glorot_uniform by default
        x = keras.layers.Concatenate(name=f"decoder_{level}_concat")([x, skips[level]])
        x = block(x, level, "decoder")
    return keras.Model(inputs, logits(x, task.num_classes), name="flex_unet")


def _fewer_layers(image_size: tuple[int, int], num_layers: int) -> str:
    """The binding of the largest depth that the image size allows, "" where none does."""
    sides = image_size if isinstance(image_size, (tuple, list)) and all(isinstance(side, int) for side in image_size) else (1,)
    depth = next(n for n in range(num_layers, 0, -1) if not any(side % 2 ** (n - 1) for side in sides))
    return f'--gin_param="flex_unet.num_layers={depth}"' if depth > 1 else ""
