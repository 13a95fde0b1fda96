"""The frame of every architecture: raw pixels in at a size that it can take, logits out, both in full precision.

Usage:
    check_image_size(image_size, 32, owner="my_net", because="2**(num_layers - 1), with my_net.num_layers = 6")
    inputs, x = image_input(image_size, image_channels, scale=True)
    ...
    return keras.Model(inputs, logits(x, num_classes), name="my_net")
"""

import keras
import numpy as np

from flexseg.errors import UserError
from flexseg.models.layers.blocks import check_whole
from flexseg.models.layers.convolutions import Conv2D
from flexseg.models.layers.upsampling import BilinearUpsampling


def full_precision() -> str:
    """The dtype of pixels and logits: 16 bits would round the former and overflow in sums over the latter."""
    return "float64" if keras.config.dtype_policy().variable_dtype == "float64" else "float32"


def image_input(image_size: tuple[int, int], image_channels: int, *, scale: bool):
    """(the model's input, the same divided by 255 where `scale` says so), both [B, H, W, C]."""
    full = full_precision()
    inputs = keras.Input((*image_size, image_channels), dtype=full, name="image")
    if not scale:
        return inputs, inputs
    # A Python float would pass through float32 on its way to a float64 layer.
    return inputs, keras.layers.Rescaling(np.float64(1 / 255), dtype=full, name="scale_pixels")(inputs)


def logits(x, num_classes: int, *, name: str = "logits", kernel: int = 1, use_bias: bool = True, upsample_factor: int = 1):
    """[B, h, w, C] to logits [B, h · upsample_factor, w · upsample_factor, num_classes]: a convolution, then bilinearly raised."""
    full = full_precision()
    x = Conv2D(num_classes, kernel, padding="same", use_bias=use_bias, dtype=full, name=name)(x)
    return BilinearUpsampling(upsample_factor, dtype=full, name=f"{name}_up")(x) if upsample_factor > 1 else x


def check_head(image_channels: int, num_classes: int, *, owner: str) -> None:
    """UserError unless both are whole numbers of 1 or more."""
    for name, value in (("image_channels", image_channels), ("num_classes", num_classes)):
        check_whole(value, 1, owner=owner, name=name)


def check_rate(value, *, owner: str, name: str = "dropout_rate", times: int = 1) -> None:
    """UserError unless `value`, taken `times` times, is a share from 0 to below 1."""
    if not isinstance(value, (int, float)) or not 0 <= value * times < 1:
        bound = "1" if times == 1 else f"1/{times}, because the deepest level drops {times} times as much"
        cure = f'for example --gin_param="{owner}.{name}=0.04"'
        raise UserError(f"{owner}.{name}", expected=f"a share from 0 to below {bound}", found=repr(value), cure=cure)


def check_image_size(image_size, step: int, *, because: str, alternative: str = "") -> None:
    """Refuses a size whose sides are no multiples of `step`.

    Args:
      image_size: (height, width).
      step: what the architecture divides the image by.
      because: where the step comes from.
      alternative: another binding that would do, for the cure.

    Raises:
      UserError: naming the nearest sizes below and above.
    """
    sides = tuple(image_size) if isinstance(image_size, (tuple, list)) else ()
    if len(sides) != 2:
        cure = 'for example --gin_param="input.image_size=(512, 512)"'
        raise UserError("input.image_size", expected="(height, width) in pixels", found=repr(image_size), cure=cure)
    for side in sides:
        check_whole(side, 1, owner="input", name="image_size")
    if any(side % step for side in sides):
        below, above = (tuple(max(step, (side + up) // step * step) for side in sides) for up in (0, step - 1))
        sizes = " or ".join(f'--gin_param="input.image_size={size}"' for size in dict.fromkeys((below, above)))
        raise UserError(
            "input.image_size",
            expected=f"height and width that are multiples of {step} = {because}",
            found=f"{sides[0]} x {sides[1]}",
            cure=sizes + (f", or {alternative}" if alternative else ""),
        )
