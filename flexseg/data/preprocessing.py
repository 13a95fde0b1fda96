"""Preprocessing of a decoded case to a network input, and the inverse resize of predictions.

    image, mask = preprocess(image, mask, settings, fit=fitted_to(size, settings.evaluation_fit))
    scores = to_own_size(probabilities, own_size=(797, 644), fit=settings.evaluation_fit)

Training, validation, `flexseg evaluate` and `flexseg predict` use the same steps, in this order:

* `adjust`: gamma and sharpening of the whole case at its own size;
* a `Fit`: resize, pad or crop to the input size; a case may give several inputs (crops, tiles);
* augmentation of a training example;
* `order_channels`: last, because augmentation expects RGB.
"""

from collections.abc import Callable

import tensorflow as tf

from flexseg.data.color import apply_gamma, sharpen
from flexseg.data.fit import fit_example
from flexseg.data.images import resize_values
from flexseg.data.settings import InputSettings

# (image uint8 [h, w, C], class ids uint8 [h, w, 1]) of a case -> image [H, W, C] and class ids [H, W, 1] of an input
Fit = Callable[[tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]


def fitted_to(size: tuple[int, int], fit: str) -> Fit:
    """The Fit that resizes or pads (`fit`) the whole case to `size` = (height, width); see `fit_example`."""
    return lambda image, mask: fit_example(image, mask, size=size, fit=fit)


def adjust(image: tf.Tensor, settings: InputSettings) -> tf.Tensor:
    """Applies `input.gamma`, then `input.sharpening`, to uint8 [h, w, C]."""
    if settings.gamma:
        image = apply_gamma(image, settings.gamma)
    return sharpen(image, settings.sharpening) if settings.sharpening else image


def order_channels(image: tf.Tensor, settings: InputSettings) -> tf.Tensor:
    """Reverses the channels of [..., C] for `input.color_order = "BGR"`."""
    return image[..., ::-1] if settings.color_order == "BGR" else image


def preprocess(
    image: tf.Tensor, mask: tf.Tensor, settings: InputSettings, *, fit: Fit, augment: Fit = lambda image, mask: (image, mask)
) -> tuple[tf.Tensor, tf.Tensor]:
    """Makes a network input from a decoded case.

    Args:
      image, mask: image uint8 [h, w, C] and class ids uint8 [h, w, 1] at the case's own size.
      settings: gamma, sharpening and channel order.
      fit: transform to the input size.
      augment: augmentation, after `fit`.

    Returns:
      Image uint8 [H, W, C] and mask uint8 [H, W, 1]; padding is 255 in the mask.
    """
    image, mask = augment(*fit(adjust(image, settings), mask))
    return order_channels(image, settings), mask


def to_own_size(probabilities: tf.Tensor, *, own_size: tuple[int, int], fit: str) -> tf.Tensor:
    """Inverse of `fit_example` for probabilities float32 [H, W, K]: crops or resizes to `own_size` = (height, width) of the case."""
    if fit == "pad":
        return probabilities[: own_size[0], : own_size[1]]
    if tuple(probabilities.shape[:2]) == tuple(own_size):
        return probabilities
    return resize_values(probabilities, own_size)
