"""Input and head of every network: raw pixels in, logits out, both in full precision.

Usage:
    inputs, x = image_input(image_size, image_channels, scale=True)
    ...
    return keras.Model(inputs, logits(x, num_classes), name="my_net")
"""

import keras
import numpy as np

from flexseg.models.layers.convolutions import Conv2D
from flexseg.models.layers.upsampling import BilinearUpsampling


def full_precision() -> str:
    """The dtype of pixels and logits: 16 bits would round the former and overflow in sums over the latter."""
    return "float64" if keras.config.dtype_policy().variable_dtype == "float64" else "float32"


def image_input(image_size: tuple[int, int], image_channels: int, *, scale: bool) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    """(the model's input, the same divided by 255 where `scale` says so), both [B, H, W, C]."""
    full = full_precision()
    inputs = keras.Input((*image_size, image_channels), dtype=full, name="image")
    return inputs, scaled(inputs) if scale else inputs


def scaled(pixels: keras.KerasTensor) -> keras.KerasTensor:
    """Pixels divided by 255."""
    # A Python float would pass through float32 on its way to a float64 layer.
    return keras.layers.Rescaling(np.float64(1 / 255), dtype=full_precision(), name="scale_pixels")(pixels)


def logits(
    x: keras.KerasTensor, num_classes: int, *, name: str = "logits", kernel: int = 1, use_bias: bool = True, upsample_factor: int = 1
) -> keras.KerasTensor:
    """A convolution, then bilinear upsampling: [B, h, w, C] to [B, h · upsample_factor, w · upsample_factor, num_classes]."""
    full = full_precision()
    x = Conv2D(num_classes, kernel, padding="same", use_bias=use_bias, dtype=full, name=name)(x)
    return BilinearUpsampling(upsample_factor, dtype=full, name=f"{name}_up")(x) if upsample_factor > 1 else x
