"""Encoder U-Net: a network of keras.applications, with its learnt weights or without, under the decoder of a U-Net (arXiv:1505.04597).

    model = encoder_unet(image_size=(512, 512), image_channels=3, num_classes=2, encoder="ResNet50", encoder_weights="imagenet")

The usual way to use a pretrained encoder for segmentation (Iakubovskii 2019, github.com/qubvel-org/segmentation_models.pytorch, whose decoder widths
these are): the last map of each size is a skip.
"""

from typing import Annotated

import gin
import keras

from flexseg.models.layers.architecture import Without, architecture
from flexseg.models.layers.arguments import Count, Rate
from flexseg.models.layers.blocks import conv_unit
from flexseg.models.layers.conv_style import ConvStyle
from flexseg.models.layers.encoders import Encoder
from flexseg.models.layers.inputs_outputs import logits
from flexseg.models.layers.task import Task


@gin.configurable("encoder_unet")
@architecture
def encoder_unet(
    *,
    task: Annotated[Task, Without("input_normalize")],
    encoder: Encoder = Encoder(name="ResNet50"),
    base_filters: Count = 16,
    dropout_rate: Rate = 0.0,
    style: ConvStyle = ConvStyle(normalization="batch"),
) -> keras.Model:
    """Builds a U-Net on an encoder under the global dtype policy: raw RGB pixels [B, H, W, C] to logits [B, H, W, num_classes].

    Height and width are multiples of 32. Normalization and activation are the decoder's.

    Args:
      base_filters: channels of the decoder at the image's size; twice as many at each halving.
      dropout_rate: dropout in every block of the decoder, before its second normalization.
    """
    pixels = task.raw_inputs()
    maps = encoder(pixels, task.image_size)
    x = maps[32]
    for level in reversed(range(5)):
        name, filters = f"decoder_{level}", base_filters * 2**level
        x = keras.layers.UpSampling2D(2, name=f"{name}_up")(x)
        if 2**level in maps:  # none has one at the image's own size, ConvNeXt none at half of it
            x = keras.layers.Concatenate(name=f"{name}_concat")([x, maps[2**level]])
        x = conv_unit(x, style, name=f"{name}_a", filters=filters)
        x = conv_unit(x, style, name=f"{name}_b", filters=filters, dropout_rate=dropout_rate)
    return keras.Model(pixels, logits(x, task.num_classes), name="encoder_unet")
