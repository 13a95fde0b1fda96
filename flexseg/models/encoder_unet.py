"""Encoder U-Net: a network of keras.applications, with its learnt weights or without, under the decoder of a U-Net (arXiv:1505.04597).

    model = encoder_unet(image_size=(512, 512), image_channels=3, num_classes=2, encoder="ResNet50", encoder_weights="imagenet")

The usual way to use a pretrained encoder for segmentation (Iakubovskii 2019, github.com/qubvel-org/segmentation_models.pytorch, whose decoder widths
these are): the last map of each size is a skip.
"""

from typing import Literal

import gin
import keras

from flexseg.models.layers.blocks import ConvStyle, check_whole, conv_unit
from flexseg.models.layers.encoders import Encoder
from flexseg.models.layers.inputs_outputs import check_head, check_rate, image_input, logits


@gin.configurable("encoder_unet")
def encoder_unet(
    *,
    image_size: tuple[int, int],
    image_channels: int,
    num_classes: int,
    encoder: str = "ResNet50",
    encoder_weights: str | None = None,
    encoder_normalization: Literal["batch", "sync_batch", "frozen"] = "batch",
    encoder_trainable_layers: int | None = None,
    encoder_dropout_rate: float | None = None,
    base_filters: int = 16,
    dropout_rate: float = 0.0,
    normalization: Literal["none", "batch", "sync_batch", "group"] = "batch",
    activation: str = "relu",
    group_count: int = 8,
    normalization_momentum: float = 0.99,
) -> keras.Model:
    """Builds a U-Net on an encoder under the global dtype policy.

    Args:
      image_size: (height, width) in pixels, both multiples of 32.
      image_channels: 3, or 1, which is repeated.
      num_classes: 1 = one sigmoid logit; 2 or more = softmax over all classes.
      encoder, encoder_weights, encoder_normalization, encoder_trainable_layers, encoder_dropout_rate: see `flexseg.models.layers.encoders.Encoder`.
      base_filters: channels of the decoder at the image's size; twice as many at each halving.
      dropout_rate: in every block of the decoder, before its second normalization.
      normalization: of the decoder, "none", "batch", "sync_batch" or "group", before every activation.
      activation: of the decoder, any Keras name of ACTIVATIONS.
      group_count: groups of channels for normalization="group".
      normalization_momentum: share of the moving statistics that batch normalizations keep at each step, in the encoder too.

    Returns:
      keras.Model: float32 [B, height, width, image_channels] of raw RGB pixels 0..255 -> float32 logits [B, height, width, num_classes].

    Raises:
      UserError: a value out of range, or an image size that the encoder cannot halve five times.
    """
    owner = "encoder_unet"
    check_head(image_channels, num_classes, owner=owner)
    check_whole(base_filters, 1, owner=owner, name="base_filters")
    check_rate(dropout_rate, owner=owner)
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
    )(pixels, image_size)
    x = maps[32]
    for level in reversed(range(5)):
        name, filters = f"decoder_{level}", base_filters * 2**level
        x = keras.layers.UpSampling2D(2, name=f"{name}_up")(x)
        if 2**level in maps:  # none has one at the image's own size, ConvNeXt none at half of it
            x = keras.layers.Concatenate(name=f"{name}_concat")([x, maps[2**level]])
        x = conv_unit(x, style, name=f"{name}_a", filters=filters)
        x = conv_unit(x, style, name=f"{name}_b", filters=filters, dropout_rate=dropout_rate)
    return keras.Model(inputs, logits(x, num_classes), name=owner)
