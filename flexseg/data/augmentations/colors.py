"""Operations that change the values of the image. They apply in the order of this file; the mask stays as it is.

    image = recolor(image, [Draw(operation, settings, key) for operation in COLORS])

Values are float32 grey levels 0..255, neither clipped nor rounded between the operations. The formulas are in flexseg/data/color.py, and are tested
there; a new one may stand in its class.
"""

# ruff: noqa: D102
# ColorOperation documents `__call__` for all its operations.

import math
from collections.abc import Sequence

import tensorflow as tf

from flexseg.data import color
from flexseg.data.augmentations.draw import Draw
from flexseg.data.augmentations.operation import Operation, Range, next_in

COLORS: list["ColorOperation"] = []


class ColorOperation(Operation):
    """An operation of this stage.

    Attributes:
      channels: numbers of channels of the images that it can change; others it leaves as they are.
    """

    channels: tuple[int, ...] = (1, 3)

    def __call__(self, image: tf.Tensor, *, draw: Draw) -> tf.Tensor:
        """The image float32 [H, W, C], changed; called where `draw.happens` only."""
        raise NotImplementedError


def recolor(image: tf.Tensor, draws: Sequence[Draw]) -> tf.Tensor:
    """The image float32 [H, W, C] after all operations."""
    for draw in draws:
        if image.shape[-1] in draw.operation.channels:
            image = draw.applied(image)
    return image


@next_in(COLORS)
class Sharpen(ColorOperation):
    """Sharpens the image by a 3x3 filter."""

    name = "sharpen"
    key_number = 18
    probability = 0.0
    k = Range("sharpen_k", (0.5, 1.0), limits=(0.0, 10.0), sentence="how much of the difference to the eight neighbours is added.")

    def __call__(self, image, *, draw):
        return color.unsharp(image, draw.value(self.k))


@next_in(COLORS)
class Brightness(ColorOperation):
    """Adds the same number of grey levels to every value."""

    name = "brightness"
    key_number = 8
    probability = 0.3
    levels = Range("brightness_levels", (-20.0, 20.0), limits=(-255.0, 255.0), sentence="the grey levels that are added.")

    def __call__(self, image, *, draw):
        return color.brightness(image, draw.value(self.levels))


@next_in(COLORS)
class Contrast(ColorOperation):
    """Stretches the distance of every value to the image's mean."""

    name = "contrast"
    key_number = 9
    probability = 0.3
    factor = Range("contrast_factor", (0.8, 1.2), limits=(0.0, 10.0), sentence="the factor on the distance to the image's mean.")

    def __call__(self, image, *, draw):
        return color.contrast(image, draw.value(self.factor))


@next_in(COLORS)
class Gamma(ColorOperation):
    """Raises the values to a power."""

    name = "gamma"
    key_number = 10
    probability = 0.2
    exponent = Range(
        "gamma_exponent",
        (0.8, 1.25),
        limits=(0.1, 10.0),
        logarithmic=True,
        sentence="the exponent of the values, scaled to 0..1. Above 1 it darkens.",
    )

    def __call__(self, image, *, draw):
        return color.gamma(image, draw.value(self.exponent))


@next_in(COLORS)
class Hue(ColorOperation):
    """Rotates the hue. An image of one channel has none and stays as it is."""

    name = "hue"
    key_number = 11
    probability = 0.3
    channels = (3,)
    degrees = Range("hue_degrees", (-10.0, 10.0), limits=(-180.0, 180.0), sentence="the angle in the chroma plane of Y I Q.")

    def __call__(self, image, *, draw):
        return color.hue(image, draw.value(self.degrees))


@next_in(COLORS)
class Saturation(ColorOperation):
    """Stretches the colours away from grey. An image of one channel stays as it is."""

    name = "saturation"
    key_number = 12
    probability = 0.3
    channels = (3,)
    factor = Range("saturation_factor", (0.7, 1.3), limits=(0.0, 10.0), sentence="the factor on the distance to grey: 0 is grey, 1 changes nothing.")

    def __call__(self, image, *, draw):
        return color.saturation(image, draw.value(self.factor))


@next_in(COLORS)
class Blur(ColorOperation):
    """Blurs the image by a Gaussian."""

    name = "blur"
    key_number = 13
    probability = 0.1
    sigma = Range("blur_sigma", (0.3, 1.2), limits=(0.05, 10.0), sentence="the standard deviation of the Gaussian, in pixels.")

    def __call__(self, image, *, draw):
        _, largest = draw.setting(self.sigma)
        radius = min(math.ceil(3 * largest), *(length - 1 for length in image.shape[:2]))
        return color.blur(image, draw.value(self.sigma), radius=radius)


@next_in(COLORS)
class Noise(ColorOperation):
    """Adds independent Gaussian noise to every value."""

    name = "noise"
    key_number = 14
    probability = 0.1
    std = Range("noise_std", (2.0, 8.0), limits=(0.0, 255.0), sentence="the standard deviation of the noise, in grey levels.")

    def __call__(self, image, *, draw):
        return image + draw.value(self.std) * draw.normal(image.shape)
