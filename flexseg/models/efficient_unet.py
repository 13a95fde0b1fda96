"""EfficientUNet: an EfficientNet (Tan and Le 2019, arXiv:1905.11946) and one of the reference's two decoders for it.

    model = efficient_unet(image_size=(512, 512), image_channels=3, num_classes=2, efficientnet="B0")
    model = efficient_unet(image_size=(512, 512), image_channels=3, num_classes=2, efficientnet="B7", decoder="transposed")

decoder="residual" is its EfficientUNet: nearest raising, skips behind the blocks, residual blocks as wide as the skips. decoder="transposed" is
its EfficientNetB7UNet: learnt raising, skips within the first four stages, a decoder of 512 to 32 channels; there the reference trained the last 61
layers of the encoder alone (encoder_trainable_layers=61). Mended here: the former failed under Keras 3, and B6 under any; the latter had one logit
for any number of classes; both downloaded weights whenever a model was made. Biases before a batch normalization, which takes them out again, are
left out, and so are the seven numbers of EfficientNet's own pixel normalization.
"""

from typing import Literal

import gin
import keras
import numpy as np

from flexseg.models.layers.blocks import ConvStyle, check_choice, check_whole, conv_block, conv_unit
from flexseg.models.layers.convolutions import Conv2DTranspose
from flexseg.models.layers.encoders import Encoder
from flexseg.models.layers.inputs_outputs import check_head, check_rate, full_precision, image_input, logits

SIZES = tuple(f"B{size}" for size in range(8))
_MAPS = {
    "residual": {2: "block1a_project_bn", 4: "block2b_drop", 8: "block3b_drop", 16: "block5c_drop", 32: "block7a_project_bn"},
    "transposed": {2: "block1a_activation", 4: "block2a_activation", 8: "block3a_activation", 16: "block4a_activation", 32: "block7a_activation"},
}


@gin.configurable("efficient_unet")
def efficient_unet(
    *,
    image_size: tuple[int, int],
    image_channels: int,
    num_classes: int,
    efficientnet: Literal["B0", "B1", "B2", "B3", "B4", "B5", "B6", "B7"] = "B0",
    decoder: Literal["residual", "transposed"] = "residual",
    encoder_weights: str | None = None,
    encoder_normalization: Literal["batch", "sync_batch", "frozen"] = "batch",
    encoder_trainable_layers: int | None = None,
    encoder_dropout_rate: float | None = None,
    base_filters: int | None = None,
    dropout_rate: float = 0.0,
    normalization: Literal["none", "batch", "sync_batch", "group"] = "batch",
    activation: str = "relu",
    group_count: int = 8,
    normalization_momentum: float = 0.99,
) -> keras.Model:
    """Builds an EfficientUNet under the global dtype policy.

    Args:
      image_size: (height, width) in pixels, both multiples of 32.
      image_channels: 3, or 1, which is repeated.
      num_classes: 1 = one sigmoid logit; 2 or more = softmax over all classes.
      efficientnet: the encoder's size.
      decoder: "residual" or "transposed", see above.
      encoder_weights, encoder_normalization, encoder_trainable_layers, encoder_dropout_rate: see `flexseg.models.layers.encoders.Encoder`.
      base_filters: channels of the decoder at the image's size, and twice as many at each halving; None for the reference's, which are those of
        the skips (residual) or 512, 256, 128, 64 and 32 (transposed; as base_filters=32).
      dropout_rate: in every block of the decoder.
      normalization: of the decoder, "none", "batch", "sync_batch" or "group", before every activation.
      activation: of the decoder, any Keras name of ACTIVATIONS.
      group_count: groups of channels for normalization="group".
      normalization_momentum: share of the moving statistics that batch normalizations keep at each step, in the encoder too.

    Returns:
      keras.Model: float32 [B, height, width, image_channels] of raw RGB pixels 0..255 -> float32 logits [B, height, width, num_classes].

    Raises:
      UserError: a value out of range, or an image size that the encoder cannot halve five times.
    """
    owner = "efficient_unet"
    check_head(image_channels, num_classes, owner=owner)
    check_choice(efficientnet, SIZES, owner=owner, name="efficientnet")
    check_choice(decoder, tuple(_MAPS), owner=owner, name="decoder")
    if base_filters is not None:
        check_whole(base_filters, 1, owner=owner, name="base_filters")
    elif decoder == "transposed":
        base_filters = 32
    check_rate(dropout_rate, owner=owner)
    style = ConvStyle(owner=owner, activation=activation, normalization=normalization, group_count=group_count, momentum=normalization_momentum)
    inputs, pixels = image_input(image_size, image_channels, scale=False)
    maps = Encoder(
        owner=owner,
        name=f"EfficientNet{efficientnet}",
        weights=encoder_weights,
        normalization=encoder_normalization,
        momentum=normalization_momentum,
        trainable_layers=encoder_trainable_layers,
        dropout_rate=encoder_dropout_rate,
        taps=_MAPS[decoder],
        binding="efficientnet",
    )(pixels, image_size)

    def block(x, level: int, name: str):
        filters = base_filters * 2**level if base_filters else maps[max(2, 2**level)].shape[-1]
        if decoder == "residual":
            return conv_block(x, style, name=name, filters=filters, dropout_rate=dropout_rate, residual=True)
        x = conv_unit(x, style, name=f"{name}_a", filters=filters)
        return conv_unit(x, style, name=f"{name}_b", filters=filters, dropout_rate=dropout_rate)

    x = block(maps[32], 5, "bridge") if decoder == "residual" else maps[32]
    maps[1] = keras.layers.Rescaling(np.float64(1 / 255), dtype=full_precision(), name="scale_pixels")(pixels)
    for level in reversed(range(5)):
        name = f"decoder_{level}"
        if decoder == "transposed":
            x = Conv2DTranspose(base_filters * 2**level, 2, strides=2, name=f"{name}_up")(x)
        else:
            x = keras.layers.UpSampling2D(2, name=f"{name}_up")(x)
        x = block(keras.layers.Concatenate(name=f"{name}_concat")([x, maps[2**level]]), level, name)
    return keras.Model(inputs, logits(x, num_classes), name=owner)
