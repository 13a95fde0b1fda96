"""BASNet: a residual encoder and decoder under deep supervision, and a small U-Net that refines their result (Qin et al. 2019, CVPR).

    model = basnet(image_size=(256, 256), image_channels=3, num_classes=1, base_filters=64)        # the paper's

The authors' network (github.com/xuebinqin/BASNet, model/BASNet.py): the stages of a ResNet-34 without its first halving, two more stages, a dilated
bridge. Fixed here: the reference's needed a package that is gone, and had sigmoids for any number of classes. Biases before a batch normalization,
which takes them out again, are left out: the authors' 87,060,360 weights are this one's plus theirs. Their hybrid loss is `basnet_hybrid_loss`.
"""

import gin
import keras

from flexseg.models.layers.architecture import architecture
from flexseg.models.layers.arguments import Count, Rate, check_image_size
from flexseg.models.layers.blocks import conv_unit
from flexseg.models.layers.conv_style import ConvStyle
from flexseg.models.layers.convolutions import Conv2D
from flexseg.models.layers.inputs_outputs import full_precision, logits
from flexseg.models.layers.task import Task
from flexseg.models.layers.upsampling import BilinearUpsampling

_REPEATS = (3, 4, 6, 3, 3, 3)  # residual blocks of each stage: those of ResNet-34 and two stages more
_STAGES = len(_REPEATS)


@gin.configurable("basnet")
@architecture
def basnet(
    *,
    task: Task,
    base_filters: Count = 16,
    dropout_rate: Rate = 0.0,
    style: ConvStyle = ConvStyle(normalization="batch"),
    deep_supervision: bool = True,
) -> keras.Model:
    """Builds a BASNet under the global dtype policy: raw pixels [B, H, W, C] to logits [B, H, W, num_classes].

    Depth, kernels and dilations are the paper's. Height and width are multiples of 32.

    Args:
      base_filters: channels of the first stage: 64 in the paper; the deepest three have eight times as many.
      dropout_rate: dropout behind every stage; the paper drops nothing.
      deep_supervision: the side outputs of decoder and bridge beside the refined one, for `objective.output_weights`: a list of eight logits:
        refined, the decoder's six from fine to coarse, the bridge's.
    """
    check_image_size(task.image_size, 2 ** (_STAGES - 1), because="2**5, the halvings of basnet")
    widths = [base_filters * 2 ** min(stage, 3) for stage in range(_STAGES)]

    def ended(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
        return keras.layers.Dropout(dropout_rate, name=f"{name}_dropout")(x) if dropout_rate else x

    inputs, x = task.inputs()
    x = conv_unit(x, style, name="entry_a", filters=base_filters)
    skips = []
    for stage, (repeats, filters) in enumerate(zip(_REPEATS, widths, strict=True)):
        if stage >= 4:
            x = keras.layers.MaxPooling2D(name=f"encoder_{stage}_pool")(x)
        for repeat in range(repeats):
            strides = 2 if repeat == 0 and 1 <= stage <= 3 else 1
            x = _residual_block(x, style, name=f"encoder_{stage}_{repeat}", filters=filters, strides=strides)
        x = ended(x, f"encoder_{stage}")
        skips.append(x)
    for letter in "abc":
        x = conv_unit(x, style, name=f"bridge_{letter}", filters=widths[-1], dilation=(2, 2))
    deepest = _STAGES - 1
    sides = [logits(x, task.num_classes, kernel=3, name="side_bridge", upsample_factor=2**deepest)]
    for stage in reversed(range(_STAGES)):
        if stage < deepest:
            x = BilinearUpsampling(2, name=f"decoder_{stage}_up")(x)
        x = keras.layers.Concatenate(name=f"decoder_{stage}_concat")([x, skips[stage]])
        filters = (widths[stage], widths[stage], widths[max(0, stage - 1)])
        for letter, width in zip("abc", filters, strict=True):
            dilation = (2, 2) if stage == deepest and letter != "a" else (1, 1)
            x = conv_unit(x, style, name=f"decoder_{stage}_{letter}", filters=width, dilation=dilation)
        x = ended(x, f"decoder_{stage}")
        sides.insert(0, logits(x, task.num_classes, kernel=3, name=f"side_{stage}", upsample_factor=2**stage))
    refined = _refined(sides[0], style, filters=base_filters)
    return keras.Model(inputs, [refined, *sides] if deep_supervision else refined, name="basnet")


def _residual_block(x: keras.KerasTensor, style: ConvStyle, *, name: str, filters: int, strides: int) -> keras.KerasTensor:
    """The basic block of ResNet-34 (He et al. 2015, arXiv:1512.03385, figure 5, left)."""
    shortcut = x
    if strides > 1 or x.shape[-1] != filters:
        shortcut = Conv2D(filters, 1, strides=strides, use_bias=style.use_bias, name=f"{name}_shortcut_conv")(x)
        shortcut = style.normalize(shortcut, name=f"{name}_shortcut_norm")
    x = conv_unit(x, style, name=f"{name}_a", filters=filters, strides=strides)
    return conv_unit(x, style, name=f"{name}_b", filters=filters, shortcut=shortcut)


def _refined(coarse: keras.KerasTensor, style: ConvStyle, *, filters: int) -> keras.KerasTensor:
    """The paper's residual refinement module: a U of four halvings on the logits, added to them; [B, H, W, num_classes]."""
    x, skips = Conv2D(filters, 3, padding="same", name="refine_entry")(coarse), []
    for level in range(4):
        x = conv_unit(x, style, name=f"refine_down_{level}_a", filters=filters)
        skips.append(x)
        x = keras.layers.MaxPooling2D(name=f"refine_down_{level}_pool")(x)
    x = conv_unit(x, style, name="refine_bottom_a", filters=filters)
    for level in reversed(range(4)):
        x = BilinearUpsampling(2, name=f"refine_up_{level}_raise")(x)
        x = keras.layers.Concatenate(name=f"refine_up_{level}_concat")([x, skips[level]])
        x = conv_unit(x, style, name=f"refine_up_{level}_a", filters=filters)
    residual = logits(x, coarse.shape[-1], kernel=3)
    return keras.layers.Add(name="refined", dtype=full_precision())([coarse, residual])
