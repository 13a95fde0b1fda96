"""Preprocessing: the one way from a decoded image to an input of the network, and the one way back.

    image, mask = preprocess(image, mask, settings, fit=fitted_to(size, settings.evaluation_fit))
    scores = to_own_size(probabilities, own_size=(797, 644), fit=settings.evaluation_fit)

The training stream, the evaluation stream and the Predictor call it, so the score of a validation, of `flexseg evaluate` and of the files of
`flexseg predict` is one number. Three parts, in this order:

* `adjust`: gamma and sharpening, on a whole case at its own size;
* a `Fit`: what makes an input of the network's size out of a case; a case may give several inputs (crops, tiles), an input comes from one case;
* `order_channels`: last, because augmentation, here or on the accelerator, expects RGB.
"""

from collections.abc import Callable

import tensorflow as tf

from flexseg.data.color import apply_gamma, sharpen
from flexseg.data.fit import fit_example, map_back
from flexseg.data.settings import InputSettings

# (image uint8 [h, w, C], class ids uint8 [h, w, 1]) of a case -> the same of an input, [H, W, C] and [H, W, 1]
Fit = Callable[[tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]
to_own_size = map_back


def fitted_to(size: tuple[int, int], fit: str) -> Fit:
    """The whole case as one input of `size` = (height, width), by `resize` or `pad` (see `fit_example`)."""
    return lambda image, mask: fit_example(image, mask, size=size, fit=fit)


def adjust(image: tf.Tensor, settings: InputSettings) -> tf.Tensor:
    """Gamma (`input.gamma`), then sharpening (`input.sharpening`), on uint8 [h, w, C]; for every split alike."""
    if settings.gamma:
        image = apply_gamma(image, settings.gamma)
    return sharpen(image, settings.sharpening) if settings.sharpening else image


def order_channels(image: tf.Tensor, settings: InputSettings) -> tf.Tensor:
    """The channels of [..., C] in the order of `input.color_order`."""
    return image[..., ::-1] if settings.color_order == "BGR" else image


def preprocess(
    image: tf.Tensor, mask: tf.Tensor, settings: InputSettings, *, fit: Fit, augment: Fit = lambda image, mask: (image, mask)
) -> tuple[tf.Tensor, tf.Tensor]:
    """One input of the network from one case.

    Args:
      image, mask: uint8 [h, w, C] and class ids uint8 [h, w, 1], decoded, at the case's own size.
      settings: gamma, sharpening and channel order.
      fit: to the network's size.
      augment: of a training example, after `fit`.

    Returns:
      uint8 [H, W, C] and uint8 [H, W, 1]; pixels that no source pixel covers are 255 in the mask.
    """
    image, mask = augment(*fit(adjust(image, settings), mask))
    return order_channels(image, settings), mask
