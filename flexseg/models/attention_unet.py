"""AttentionUNet: a U-Net whose skips pass through gates that the coarser level controls (Oktay et al. 2018, arXiv:1804.03999).

    model = attention_unet(image_size=(512, 512), image_channels=3, num_classes=2, base_filters=16, num_layers=8)

The reference's network: bilinear upsampling, constant dropout, gates of as many channels as the skip (the paper's have one: gate_channels="one").
Fixed here: the reference ignored kernel, dilation and activation, and ended in a softmax even for one class. Its convolutions carried biases
directly before a batch normalization, which takes them out again; these are left out, and its parameter count is this one's plus theirs.
"""

from typing import Literal

import gin
import keras

from flexseg.models.layers.architecture import architecture
from flexseg.models.layers.arguments import Rate, check_halvings
from flexseg.models.layers.blocks import conv_unit
from flexseg.models.layers.conv_style import ConvStyle
from flexseg.models.layers.convolutions import Conv2D
from flexseg.models.layers.inputs_outputs import logits
from flexseg.models.layers.levels import Levels
from flexseg.models.layers.task import Task
from flexseg.models.layers.upsampling import BilinearUpsampling


@gin.configurable("attention_unet")
@architecture
def attention_unet(
    *,
    task: Task,
    levels: Levels = Levels(base_filters=16, num_layers=6),
    gate_channels: Literal["each", "one"] = "each",
    dropout_rate: Rate = 0.1,
    style: ConvStyle = ConvStyle(normalization="batch"),
) -> keras.Model:
    """Builds an AttentionUNet under the global dtype policy: raw pixels [B, H, W, C] to logits [B, H, W, num_classes].

    Height and width are multiples of 2**(num_layers - 1).

    Args:
      gate_channels: a gate's factors: "each" channel of the skip has its own (the reference), or "one" for all (the paper).
      dropout_rate: dropout in every block before its second normalization, and in every gate on the skip's side.
    """
    check_halvings(task.image_size, levels.num_layers, owner="attention_unet")

    def block(x: keras.KerasTensor, level: int, name: str) -> keras.KerasTensor:
        x = conv_unit(x, style, name=f"{name}_a", **levels.conv(level))
        return conv_unit(x, style, name=f"{name}_b", **levels.conv(level), dropout_rate=dropout_rate)

    inputs, x = task.inputs()
    skips, deepest = [], levels.num_layers - 1
    for level in range(deepest):
        x = block(x, level, f"encoder_{level}")
        skips.append(x)
        x = keras.layers.MaxPooling2D(name=f"encoder_{level}_pool")(x)
    x = block(x, deepest, "bridge")
    for level in reversed(range(deepest)):
        x = BilinearUpsampling(2, name=f"decoder_{level}_up")(x)
        filters = levels.filters[level]
        channels = filters if gate_channels == "each" else 1
        skip = _gated(skips[level], x, style, name=f"gate_{level}", filters=filters, channels=channels, dropout_rate=dropout_rate)
        x = keras.layers.Concatenate(name=f"decoder_{level}_concat")([x, skip])
        x = block(x, level, f"decoder_{level}")
    return keras.Model(inputs, logits(x, task.num_classes), name="attention_unet")


def _gated(
    skip: keras.KerasTensor, signal: keras.KerasTensor, style: ConvStyle, *, name: str, filters: int, channels: int, dropout_rate: float
) -> keras.KerasTensor:
    """The additive gate of the paper's figure 2, on a signal upsampled to the skip's size: [B, H, W, filters] twice -> [B, H, W, filters]."""
    sides = []
    for side, x in (("signal", signal), ("skip", skip)):
        x = Conv2D(filters, 1, use_bias=style.use_bias, name=f"{name}_{side}_conv")(x)
        if dropout_rate and side == "skip":
            x = keras.layers.Dropout(dropout_rate, name=f"{name}_{side}_dropout")(x)
        sides.append(style.normalize(x, name=f"{name}_{side}_norm"))
    x = keras.layers.Activation(style.activation, name=f"{name}_act")(keras.layers.Add(name=f"{name}_add")(sides))
    x = Conv2D(channels, 1, name=f"{name}_factor")(x)
    return keras.layers.Multiply(name=f"{name}_multiply")([skip, keras.layers.Activation("sigmoid", name=f"{name}_sigmoid")(x)])
