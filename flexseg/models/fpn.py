"""FPN: a feature pyramid whose levels are summed up for segmentation (Kirillov et al. 2019, Panoptic Feature Pyramid Networks, arXiv:1901.02446).

    model = fpn(image_size=(512, 512), image_channels=3, num_classes=2, encoder="ResNet50", encoder_weights="imagenet")

The paper's semantic branch (its figure 3) on an encoder of keras.applications: convolutions with bilinear upsampling between them bring each level of
the pyramid to 1/4 of the image, all are added, and the logits are upsampled by 4. As in segmentation_models_pytorch, and unlike in the paper, the
levels go into the branch without a convolution of their own before it (Lin et al. 2017, arXiv:1612.03144, section 3).
"""

from typing import Annotated

import gin
import keras

from flexseg.models.layers.architecture import Without, architecture
from flexseg.models.layers.arguments import Count, Rate
from flexseg.models.layers.blocks import conv_unit
from flexseg.models.layers.conv_style import ConvStyle
from flexseg.models.layers.convolutions import Conv2D
from flexseg.models.layers.encoders import Encoder
from flexseg.models.layers.inputs_outputs import logits
from flexseg.models.layers.task import Task
from flexseg.models.layers.upsampling import BilinearUpsampling


@gin.configurable("fpn")
@architecture
def fpn(
    *,
    task: Annotated[Task, Without("input_normalize")],
    encoder: Encoder = Encoder(name="ResNet50"),
    pyramid_filters: Count = 256,
    base_filters: Count = 128,
    dropout_rate: Rate = 0.0,
    style: ConvStyle = ConvStyle(normalization="group", group_count=32),
) -> keras.Model:
    """Builds an FPN on an encoder under the global dtype policy: raw RGB pixels [B, H, W, C] to logits [B, H, W, num_classes].

    Height and width are multiples of 32. Normalization ("group" in the paper) and activation are the segmentation branch's.

    Args:
      pyramid_filters: channels of the pyramid.
      base_filters: channels of the segmentation branch.
      dropout_rate: dropout before the logits.
    """
    pixels = task.raw_inputs()
    maps = encoder(pixels, task.image_size)
    x, branches = None, []
    for level in (5, 4, 3, 2):  # at 1 / 2**level of the image
        name = f"pyramid_{level}"
        side = Conv2D(pyramid_filters, 1, name=f"{name}_conv")(maps[2**level])
        x = side if x is None else keras.layers.Add(name=f"{name}_add")([keras.layers.UpSampling2D(2, name=f"{name}_up")(x), side])
        branch = x
        for step in range(max(1, level - 2)):
            branch = conv_unit(branch, style, name=f"branch_{level}_{'abc'[step]}", filters=base_filters)
            branch = BilinearUpsampling(2, name=f"branch_{level}_up_{'abc'[step]}")(branch) if level > 2 else branch
        branches.append(branch)
    x = keras.layers.Add(name="branches_add")(branches)
    x = keras.layers.Dropout(dropout_rate, name="branches_dropout")(x) if dropout_rate else x
    return keras.Model(pixels, logits(x, task.num_classes, upsample_factor=4), name="fpn")
