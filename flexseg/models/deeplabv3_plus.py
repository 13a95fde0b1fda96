"""DeepLabV3+: parallel dilated convolutions on a deep map, and one skip from a shallow one (Chen et al. 2018, arXiv:1802.02611).

    model = deeplabv3_plus(image_size=(512, 512), image_channels=3, num_classes=2, encoder="ResNet50", encoder_weights="imagenet")

With encoder_maps="inner" the reference's network, which is that of keras.io/examples/vision/deeplabv3_plus: a ResNet50 up to its fourth stage, read
within the bottleneck of the last block. With "stage" the maps are the last of their size, and with atrous=True the fifth stage is dilated as in the
paper. Mended here: the reference downloaded ImageNet's weights whenever a model was made, for inference too, and ended in a softmax even for one
class. Biases before a batch normalization, which takes them out again, are left out.
"""

from typing import Literal

import gin
import keras

from flexseg.errors import UserError
from flexseg.models.layers.blocks import ConvStyle, check_choice, check_whole, conv_unit
from flexseg.models.layers.encoders import ATROUS, ENCODERS, Encoder
from flexseg.models.layers.inputs_outputs import check_head, check_rate, image_input, logits
from flexseg.models.layers.upsampling import BilinearUpsampling

_INNER = {"ResNet50": {4: "conv2_block3_2_relu", 16: "conv4_block6_2_relu"}, "ResNet101": {4: "conv2_block3_2_relu", 16: "conv4_block23_2_relu"}}


@gin.configurable("deeplabv3_plus")
def deeplabv3_plus(
    *,
    image_size: tuple[int, int],
    image_channels: int,
    num_classes: int,
    encoder: str = "ResNet50",
    encoder_maps: Literal["inner", "stage"] = "inner",
    encoder_weights: str | None = None,
    encoder_normalization: Literal["batch", "sync_batch", "frozen"] = "batch",
    encoder_trainable_layers: int | None = None,
    encoder_dropout_rate: float | None = None,
    atrous: bool = False,
    atrous_rates: tuple[int, ...] = (6, 12, 18),
    base_filters: int = 256,
    skip_filters: int = 48,
    dropout_rate: float = 0.0,
    normalization: Literal["none", "batch", "sync_batch", "group"] = "batch",
    activation: str = "relu",
    group_count: int = 8,
    normalization_momentum: float = 0.99,
) -> keras.Model:
    """Builds a DeepLabV3+ on an encoder under the global dtype policy.

    Args:
      image_size: (height, width) in pixels, both multiples of 32.
      image_channels: 3, or 1, which is repeated.
      num_classes: 1 = one sigmoid logit; 2 or more = softmax over all classes.
      encoder, encoder_weights, encoder_normalization, encoder_trainable_layers, encoder_dropout_rate: see `flexseg.models.layers.encoders.Encoder`.
      encoder_maps: "inner" (keras.io; ResNets only) or "stage", the last map at 1/16 and at 1/4 of the image.
      atrous: the encoder's last stage has no stride and is dilated by 2 (ResNets only; with encoder_maps="stage").
      atrous_rates: dilations of the parallel 3x3 convolutions, at 1/16 of the image.
      base_filters: channels of each parallel convolution and of the decoder.
      skip_filters: channels of the projected shallow map.
      dropout_rate: behind the parallel convolutions and in the decoder's block.
      normalization: outside of the encoder, "none", "batch", "sync_batch" or "group", before every activation.
      activation: outside of the encoder, any Keras name of ACTIVATIONS.
      group_count: groups of channels for normalization="group".
      normalization_momentum: share of the moving statistics that batch normalizations keep at each step, in the encoder too.

    Returns:
      keras.Model: float32 [B, height, width, image_channels] of raw RGB pixels 0..255 -> float32 logits [B, height, width, num_classes].

    Raises:
      UserError: a value out of range, or an image size that the encoder cannot halve five times.
    """
    owner = "deeplabv3_plus"
    check_head(image_channels, num_classes, owner=owner)
    for name, value in (("base_filters", base_filters), ("skip_filters", skip_filters), *(("atrous_rates", rate) for rate in atrous_rates)):
        check_whole(value, 1, owner=owner, name=name)
    if len(set(atrous_rates)) != len(atrous_rates):
        raise UserError(f"{owner}.atrous_rates", expected="every rate once", found=repr(tuple(atrous_rates)))
    check_rate(dropout_rate, owner=owner)
    check_choice(encoder, tuple(ENCODERS), owner=owner, name="encoder")
    check_choice(encoder_maps, ("inner", "stage"), owner=owner, name="encoder_maps")
    if encoder_maps == "inner" and (encoder not in _INNER or atrous):
        raise UserError(
            f"{owner}.encoder_maps",
            expected=f"'stage', unless the encoder is one of {', '.join(ATROUS)} without atrous",
            found="'inner'",
            cure=f"--gin_param=\"{owner}.encoder_maps='stage'\"",
        )
    style = ConvStyle(owner=owner, activation=activation, normalization=normalization, group_count=group_count, momentum=normalization_momentum)
    inputs, pixels = image_input(image_size, image_channels, scale=False)
    maps = Encoder(
        owner=owner,
        name=encoder,
        weights=encoder_weights,
        normalization=encoder_normalization,
        momentum=normalization_momentum,
        trainable_layers=encoder_trainable_layers,
        dropout_rate=encoder_dropout_rate,
        atrous=atrous,
        strides=(4, 16),
        taps=_INNER[encoder] if encoder_maps == "inner" else None,
    )(pixels, image_size)
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
    return keras.Model(inputs, logits(x, num_classes, upsample_factor=4), name=owner)
