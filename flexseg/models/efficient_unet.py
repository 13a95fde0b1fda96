"""EfficientUNet: an EfficientNet (Tan and Le 2019, arXiv:1905.11946) and one of the reference's two decoders for it.

    model = efficient_unet(image_size=(512, 512), image_channels=3, num_classes=2, efficientnet="B0")
    model = efficient_unet(image_size=(512, 512), image_channels=3, num_classes=2, efficientnet="B7", decoder="transposed")

decoder="residual" is its EfficientUNet: nearest upsampling, skips behind the blocks, residual blocks as wide as the skips. decoder="transposed" is
its EfficientNetB7UNet: learnt upsampling, skips within the first four stages, a decoder of 512 to 32 channels; there the reference trained the last
61 layers of the encoder alone (encoder_trainable_layers=61). Fixed here: the former failed under Keras 3, and B6 under any; the latter had one logit
for any number of classes; both downloaded weights whenever a model was made. Biases before a batch normalization, which takes them out again, are
left out, and so are the seven numbers of EfficientNet's own pixel normalization.
"""

import dataclasses
from typing import Annotated, Literal

import gin
import keras

from flexseg.models.layers.architecture import Without, architecture
from flexseg.models.layers.arguments import AtLeast, Rate
from flexseg.models.layers.blocks import conv_block, conv_unit
from flexseg.models.layers.conv_style import ConvStyle
from flexseg.models.layers.convolutions import Conv2DTranspose
from flexseg.models.layers.encoders import Encoder
from flexseg.models.layers.inputs_outputs import logits, scaled
from flexseg.models.layers.task import Task

_MAPS = {
    "residual": {2: "block1a_project_bn", 4: "block2b_drop", 8: "block3b_drop", 16: "block5c_drop", 32: "block7a_project_bn"},
    "transposed": {2: "block1a_activation", 4: "block2a_activation", 8: "block3a_activation", 16: "block4a_activation", 32: "block7a_activation"},
}


@gin.configurable("efficient_unet")
@architecture
def efficient_unet(
    *,
    task: Annotated[Task, Without("input_normalize")],
    efficientnet: Literal["B0", "B1", "B2", "B3", "B4", "B5", "B6", "B7"] = "B0",
    decoder: Literal["residual", "transposed"] = "residual",
    encoder: Annotated[Encoder, Without("encoder")] = Encoder(name="EfficientNetB0", binding="efficientnet"),
    base_filters: Annotated[int | None, AtLeast(1)] = None,
    dropout_rate: Rate = 0.0,
    style: ConvStyle = ConvStyle(normalization="batch"),
) -> keras.Model:
    """Builds an EfficientUNet under the global dtype policy: raw RGB pixels [B, H, W, C] to logits [B, H, W, num_classes].

    Height and width are multiples of 32. Normalization and activation are the decoder's.

    Args:
      efficientnet: size of the encoder.
      decoder: "residual" or "transposed", see above.
      base_filters: channels of the decoder at the image's size, and twice as many at each halving; None for the reference's, which are those of
        the skips (residual) or 512, 256, 128, 64 and 32 (transposed; as base_filters=32).
      dropout_rate: dropout in every block of the decoder.
    """
    if base_filters is None and decoder == "transposed":
        base_filters = 32
    encoder = dataclasses.replace(encoder, name=f"EfficientNet{efficientnet}", taps=_MAPS[decoder])
    pixels = task.raw_inputs()
    maps = encoder(pixels, task.image_size)

    def block(x: keras.KerasTensor, level: int, name: str) -> keras.KerasTensor:
        filters = base_filters * 2**level if base_filters else maps[max(2, 2**level)].shape[-1]
        if decoder == "residual":
            return conv_block(x, style, name=name, filters=filters, dropout_rate=dropout_rate, residual=True)
        x = conv_unit(x, style, name=f"{name}_a", filters=filters)
        return conv_unit(x, style, name=f"{name}_b", filters=filters, dropout_rate=dropout_rate)

    x = block(maps[32], 5, "bridge") if decoder == "residual" else maps[32]
    maps[1] = scaled(pixels)
    for level in reversed(range(5)):
        name = f"decoder_{level}"
        if decoder == "transposed":
            x = Conv2DTranspose(base_filters * 2**level, 2, strides=2, name=f"{name}_up")(x)
        else:
            x = keras.layers.UpSampling2D(2, name=f"{name}_up")(x)
        x = block(keras.layers.Concatenate(name=f"{name}_concat")([x, maps[2**level]]), level, name)
    return keras.Model(pixels, logits(x, task.num_classes), name="efficient_unet")
