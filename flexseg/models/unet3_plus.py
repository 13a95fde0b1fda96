"""UNet 3+: every level of the decoder sees every level of encoder and decoder (Huang et al. 2020, arXiv:2004.08790).

    model = unet3_plus(image_size=(512, 512), image_channels=3, num_classes=2, base_filters=64, num_layers=5, deep_supervision=True)

Fixed here: the reference had five levels whatever `num_layers` said, one output channel under a softmax, which is 1 everywhere, and neither the
paper's deep supervision nor its classification-guided module.
"""

import gin
import keras

from flexseg.models.layers.architecture import architecture
from flexseg.models.layers.arguments import check_halvings, check_rate
from flexseg.models.layers.blocks import conv_block, conv_unit
from flexseg.models.layers.conv_style import ConvStyle
from flexseg.models.layers.convolutions import Conv2D
from flexseg.models.layers.inputs_outputs import full_precision, logits
from flexseg.models.layers.levels import Levels
from flexseg.models.layers.task import Task
from flexseg.models.layers.upsampling import BilinearUpsampling


@gin.configurable("unet3_plus")
@architecture
def unet3_plus(
    *,
    task: Task,
    levels: Levels = Levels(base_filters=16, num_layers=5),
    deep_supervision: bool = True,
    classification_guided: bool = False,
    dropout_rate: float = 0.0,
    style: ConvStyle = ConvStyle(normalization="batch"),
) -> keras.Model:
    """Builds a UNet 3+ under the global dtype policy: raw pixels [B, H, W, C] to logits [B, H, W, num_classes].

    Channels, kernels and dilations of the levels are the encoder's; in the decoder every level has num_layers * base_filters channels and kernels of
    3 x 3. The paper has base_filters=64 and num_layers=5. Height and width are multiples of 2**(num_layers - 1).

    Args:
      deep_supervision: an output of every level beside the main one, for `objective.output_weights`: a list of num_layers logits.
      classification_guided: the deepest level says for every class whether the image has any of it, and every output's probabilities are
        multiplied by that. The paper decides hard and learns from a label of its own; here it is a factor, learnt from the masks alone.
      dropout_rate: level i of the encoder drops this share times i between its two convolutions; the paper drops nothing.
    """
    num_layers, base_filters = levels.num_layers, levels.base_filters
    check_rate(dropout_rate, owner="unet3_plus", times=num_layers - 1)
    check_halvings(task.image_size, num_layers, owner="unet3_plus")
    inputs, x = task.inputs()
    encoded = []
    for level in range(num_layers):
        if level:
            x = keras.layers.MaxPooling2D(name=f"encoder_{level - 1}_pool")(x)
        x = conv_block(x, style, name=f"encoder_{level}", **levels.conv(level), dropout_rate=dropout_rate * level)
        encoded.append(x)
    decoded = {num_layers - 1: x}
    for level in reversed(range(num_layers - 1)):
        branches = [_branch(encoded[other], style, at=level, of=other, filters=base_filters) for other in range(level + 1)]
        branches += [_branch(decoded[other], style, at=level, of=other, filters=base_filters) for other in range(level + 1, num_layers)]
        fused = keras.layers.Concatenate(name=f"decoder_{level}_concat")(branches)
        decoded[level] = conv_unit(fused, style, name=f"decoder_{level}_a", filters=num_layers * base_filters)
    outputs = [
        logits(decoded[level], task.num_classes, kernel=3, name=f"side_{level}" if level else "logits", upsample_factor=2**level)
        for level in range(num_layers if deep_supervision else 1)
    ]
    if classification_guided:
        outputs = _guided(outputs, decoded[num_layers - 1], task.num_classes)
    return keras.Model(inputs, outputs if deep_supervision else outputs[0], name="unet3_plus")


def _branch(x: keras.KerasTensor, style: ConvStyle, *, at: int, of: int, filters: int) -> keras.KerasTensor:
    """Level `of` at the size of level `at`, figure 2 of the paper: [B, H, W, filters]."""
    name = f"decoder_{at}_from_{of}"
    if of < at:
        x = keras.layers.MaxPooling2D(2 ** (at - of), name=f"{name}_pool")(x)
    elif of > at:
        x = BilinearUpsampling(2 ** (of - at), name=f"{name}_up")(x)
    return conv_unit(x, style, name=f"{name}_a", filters=filters)


def _guided(outputs: list, deepest: keras.KerasTensor, num_classes: int) -> list:
    """Section 2.3 of the paper with a soft decision: log(p · present) = logit + log(present), up to the softmax's own normalization."""
    full = full_precision()
    x = keras.layers.Dropout(0.5, name="presence_dropout")(deepest)
    x = keras.layers.GlobalMaxPooling2D(keepdims=True, name="presence_pool", dtype=full)(Conv2D(num_classes, 1, name="presence_conv", dtype=full)(x))
    x = keras.layers.Activation("log_sigmoid", name="presence", dtype=full)(x)
    return [keras.layers.Add(name=f"guided_{index}", dtype=full)([output, x]) for index, output in enumerate(outputs)]
