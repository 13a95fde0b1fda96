"""U²-Net: a U-Net whose every block is a small U-Net (Qin et al. 2020, arXiv:2005.09007).

    model = u2net(image_size=(320, 320), image_channels=3, num_classes=1, base_filters=64, num_layers=6)      # the paper's

Widths and depths are the paper's, for any number of layers. Fixed here: the reference put sigmoids on the side outputs and on what they were fused
to, for several classes too, had no normalization, and doubled the width without end: 783 million weights with its own settings for TNBC. Biases
before a batch normalization, which takes them out again, are left out: the authors' 44,009,869 weights are this one's plus theirs.
"""

from typing import Annotated

import gin
import keras

from flexseg.models.layers.architecture import architecture
from flexseg.models.layers.arguments import AtLeast, Rate, check_halvings
from flexseg.models.layers.blocks import conv_unit
from flexseg.models.layers.conv_style import ConvStyle
from flexseg.models.layers.inputs_outputs import logits
from flexseg.models.layers.task import Task
from flexseg.models.layers.upsampling import BilinearUpsampling


@gin.configurable("u2net")
@architecture
def u2net(
    *,
    task: Task,
    base_filters: Annotated[int, AtLeast(4)] = 16,
    num_layers: Annotated[int, AtLeast(4)] = 6,
    dropout_rate: Rate = 0.0,
    style: ConvStyle = ConvStyle(normalization="batch", group_count=4),
    deep_supervision: bool = True,
) -> keras.Model:
    """Builds a U²-Net under the global dtype policy: raw pixels [B, H, W, C] to logits [B, H, W, num_classes].

    Kernels are 3 x 3 and dilations 1, 2, 4 and 8, as the blocks are made of them. Of `num_layers` stages the last two are dilated and of the
    width of the one before; stage i before them is a U of num_layers + 1 - i levels and base_filters * 2**i channels. Height and width are multiples
    of 2**(num_layers - 1).

    Args:
      base_filters: channels of stage 0, 4 or more: 64 in the paper.
      num_layers: stages, 4 or more: 6 in the paper.
      dropout_rate: dropout behind every stage; the paper drops nothing.
      deep_supervision: the side outputs of all stages beside what they are fused to, for `objective.output_weights`: a list of 1 + num_layers
        logits.
    """
    check_halvings(task.image_size, num_layers, owner="u2net")
    dilated = num_layers - 2  # the first of the two dilated stages
    widths = [base_filters * 2 ** min(stage, dilated - 1) for stage in range(num_layers)]

    def stage_of(x: keras.KerasTensor, stage: int, *, name: str, filters: int, inner: int) -> keras.KerasTensor:
        if stage >= dilated:
            x = _dilated_block(x, style, name=name, filters=filters, inner=filters // 2)
        else:
            x = _u_block(x, style, name=name, filters=filters, inner=inner, depth=num_layers + 1 - stage)
        return keras.layers.Dropout(dropout_rate, name=f"{name}_dropout")(x) if dropout_rate else x

    inputs, x = task.inputs()
    skips = []
    for stage, filters in enumerate(widths):
        x = stage_of(x, stage, name=f"encoder_{stage}", filters=filters, inner=max(filters // 4, base_filters // 2))
        skips.append(x)
        if stage < num_layers - 1:
            x = keras.layers.MaxPooling2D(name=f"encoder_{stage}_pool")(x)
    sides = [logits(x, task.num_classes, kernel=3, name=f"side_{num_layers - 1}", upsample_factor=2 ** (num_layers - 1))]
    for stage in reversed(range(num_layers - 1)):
        x = BilinearUpsampling(2, name=f"decoder_{stage}_up")(x)
        x = keras.layers.Concatenate(name=f"decoder_{stage}_concat")([x, skips[stage]])
        x = stage_of(x, stage, name=f"decoder_{stage}", filters=widths[max(0, stage - 1)], inner=widths[stage] // 4)
        sides.insert(0, logits(x, task.num_classes, kernel=3, name=f"side_{stage}", upsample_factor=2**stage))
    fused = logits(keras.layers.Concatenate(name="sides", dtype=sides[0].dtype)(sides), task.num_classes)
    return keras.Model(inputs, [fused, *sides] if deep_supervision else fused, name="u2net")


def _u_block(x: keras.KerasTensor, style: ConvStyle, *, name: str, filters: int, inner: int, depth: int) -> keras.KerasTensor:
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


def _dilated_block(x: keras.KerasTensor, style: ConvStyle, *, name: str, filters: int, inner: int) -> keras.KerasTensor:
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
