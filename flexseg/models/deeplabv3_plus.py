"""DeepLabV3+: parallel dilated convolutions on a deep map, and one skip from a shallow one (Chen et al. 2018, arXiv:1802.02611).

    model = deeplabv3_plus(image_size=(512, 512), image_channels=3, num_classes=2, encoder="ResNet50", encoder_weights="imagenet")

With encoder_maps="inner" the reference's network, which is that of keras.io/examples/vision/deeplabv3_plus: a ResNet50 up to its fourth stage, read
within the bottleneck of the last block. With "stage" the maps are the last of their size, and with atrous=True the fifth stage is dilated as in the
paper. Fixed here: the reference downloaded ImageNet's weights whenever a model was made, for inference too, and ended in a softmax even for one
class. Biases before a batch normalization, which takes them out again, are left out.
"""

import dataclasses
from typing import Annotated, Literal

import gin
import keras

from flexseg.errors import UserError
from flexseg.models.layers.architecture import Without, architecture
from flexseg.models.layers.arguments import Count, Rate
from flexseg.models.layers.blocks import conv_unit
from flexseg.models.layers.conv_style import ConvStyle
from flexseg.models.layers.encoders import ATROUS, Encoder
from flexseg.models.layers.inputs_outputs import logits
from flexseg.models.layers.task import Task
from flexseg.models.layers.upsampling import BilinearUpsampling

_INNER = {"ResNet50": {4: "conv2_block3_2_relu", 16: "conv4_block6_2_relu"}, "ResNet101": {4: "conv2_block3_2_relu", 16: "conv4_block23_2_relu"}}


@gin.configurable("deeplabv3_plus")
@architecture
def deeplabv3_plus(
    *,
    task: Annotated[Task, Without("input_normalize")],
    encoder: Encoder = Encoder(name="ResNet50", strides=(4, 16)),
    encoder_maps: Literal["inner", "stage"] = "inner",
    atrous: bool = False,
    atrous_rates: tuple[Count, ...] = (6, 12, 18),
    base_filters: Count = 256,
    skip_filters: Count = 48,
    dropout_rate: Rate = 0.0,
    style: ConvStyle = ConvStyle(normalization="batch"),
) -> keras.Model:
    """Builds a DeepLabV3+ on an encoder under the global dtype policy: raw RGB pixels [B, H, W, C] to logits [B, H, W, num_classes].

    Height and width are multiples of 32. Normalization and activation are those outside of the encoder.

    Args:
      encoder_maps: "inner" (keras.io; ResNets only) or "stage", the last map at 1/16 and at 1/4 of the image.
      atrous: the encoder's last stage has no stride and is dilated by 2 (ResNets only; with encoder_maps="stage").
      atrous_rates: dilations of the parallel 3x3 convolutions, at 1/16 of the image.
      base_filters: channels of each parallel convolution and of the decoder.
      skip_filters: channels of the projected shallow map.
      dropout_rate: dropout behind the parallel convolutions and in the decoder's block.
    """
    if len(set(atrous_rates)) != len(atrous_rates):
        raise UserError("deeplabv3_plus.atrous_rates", expected="every rate once", found=repr(tuple(atrous_rates)))
    if encoder_maps == "inner" and (encoder.name not in _INNER or atrous):
        raise UserError(
            "deeplabv3_plus.encoder_maps",
            expected=f"'stage', unless the encoder is one of {', '.join(ATROUS)} without atrous",
            found="'inner'",
            cure="--gin_param=\"deeplabv3_plus.encoder_maps='stage'\"",
        )
    encoder = dataclasses.replace(encoder, atrous=atrous, taps=_INNER[encoder.name] if encoder_maps == "inner" else None)
    pixels = task.raw_inputs()
    maps = encoder(pixels, task.image_size)
    x = maps[16]
    pooled = keras.layers.GlobalAveragePooling2D(keepdims=True, name="global_pool")(x)
    pooled = conv_unit(pooled, style, name="global_a", filters=base_filters, kernel=1)
    pooled = keras.layers.UpSampling2D(x.shape[1:3], name="global_up")(pooled)
    branches = [pooled, conv_unit(x, style, name="point_a", filters=base_filters, kernel=1)]
    branches += [conv_unit(x, style, name=f"atrous_{rate}_a", filters=base_filters, dilation=rate) for rate in atrous_rates]
    x = keras.layers.Concatenate(name="pyramid_concat")(branches)
    x = conv_unit(x, style, name="pyramid_a", filters=base_filters, kernel=1, dropout_rate=dropout_rate)
    skip = conv_unit(maps[4], style, name="skip_a", filters=skip_filters, kernel=1)
    x = keras.layers.Concatenate(name="decoder_concat")([BilinearUpsampling(4, name="decoder_up")(x), skip])
    x = conv_unit(x, style, name="decoder_a", filters=base_filters)
    x = conv_unit(x, style, name="decoder_b", filters=base_filters, dropout_rate=dropout_rate)
    return keras.Model(pixels, logits(x, task.num_classes, upsample_factor=4), name="deeplabv3_plus")
