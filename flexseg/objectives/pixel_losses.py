"""Losses that are means over pixels: the cross-entropies under Keras's names, and focal loss.

Computed from logits, they are exact. Keras's forms from probabilities clip p to [1e-7, 1 - 1e-7]: there no pixel costs more than 16.1 (and in
float32 the upper bound is 1 - 1.2e-7), and a pixel that is wrong with certainty has no gradient. Up to that clip the values are the same.

Class weights multiply the loss of each pixel by the weight of its true class; the sum is still divided by the number of pixels, as Keras does
with its sample weights, not by the sum of weights. So an image of one class feels its weight, and weights that average 1 over the pixels keep
the loss's size.
"""

from collections.abc import Callable

import tensorflow as tf

from flexseg.errors import UserError
from flexseg.objectives.head import Head
from flexseg.objectives.loss import Loss
from flexseg.objectives.pixels import Pixels, sum_pixels

__all__ = ["categorical_crossentropy", "binary_crossentropy", "focal"]


def categorical_crossentropy(head: Head, *, class_weights: tuple[float, ...] | None = None) -> Loss:
    """-log p of the true class; masks are class ids, so Keras's dense and sparse names mean the same here.

    Raises:
      UserError: for one sigmoid logit, where Keras's formula is 0 whatever is predicted.
    """
    if head.num_classes == 1:
        raise UserError("objective.loss", expected="a loss that one sigmoid logit can train (num_classes = 1)", found="categorical_crossentropy",
                        cure="objective.loss = 'binary_crossentropy'")  # fmt: skip
    return true_class_crossentropy(head, class_weights=class_weights)


def binary_crossentropy(head: Head, *, class_weights: tuple[float, ...] | None = None) -> Loss:
    """-(y log p + (1 - y) log(1 - p)); with K >= 2 channels the mean over the channels of one-hot truth and softmax, as Keras gives it."""
    if head.num_classes == 1:
        return mean_over_pixels("binary_crossentropy", lambda pixels: -pixels.log_p_true, head, class_weights)

    def pixel_loss(pixels: Pixels) -> tf.Tensor:
        return -tf.reduce_mean(pixels.truth * pixels.log_p + (pixels.valid - pixels.truth) * pixels.log_q, axis=-1, keepdims=True)

    return mean_over_pixels("binary_crossentropy", pixel_loss, head, class_weights)


def true_class_crossentropy(head: Head, *, class_weights: tuple[float, ...] | None = None) -> Loss:
    """-log p of the true class for any head: binary cross-entropy with one logit, categorical with more."""
    return mean_over_pixels("crossentropy", lambda pixels: -pixels.log_p_true, head, class_weights)


def focal(head: Head, *, focal_gamma: float = 2.0, class_weights: tuple[float, ...] | None = None) -> Loss:
    """-(1 - p)^gamma log p of the true class (Lin et al. 2017, arXiv:1708.02002, whose alpha is `class_weights` here); gamma 0 is cross-entropy."""

    def pixel_loss(pixels: Pixels) -> tf.Tensor:
        # (1 - p)^gamma as exp(gamma log(1 - p)): its gradient stays finite at p = 1 for every gamma, that of tf.pow does not below 1.
        return -tf.exp(focal_gamma * pixels.log_q_true) * pixels.log_p_true

    return mean_over_pixels("focal", pixel_loss, head, class_weights)


def mean_over_pixels(name: str, pixel_loss: Callable[[Pixels], tf.Tensor], head: Head, class_weights: tuple[float, ...] | None = None) -> Loss:
    """A loss from a loss of each pixel.

    Args:
      name: of the loss.
      pixel_loss: Pixels -> [B, H, W, 1], 0 on ignored pixels.
      head: channels and classes.
      class_weights: one for each class id, or None.

    Raises:
      UserError: for another number of weights than classes.
    """
    head.check_weights(class_weights)

    def sums(pixels: Pixels) -> tf.Tensor:
        values = pixel_loss(pixels)
        if class_weights is not None:
            values *= tf.reduce_sum(pixels.class_truth * tf.constant(class_weights, pixels.dtype), axis=-1, keepdims=True)
        return tf.stack([sum_pixels(values), sum_pixels(pixels.valid)], axis=-1)

    def value(loss_and_count: tf.Tensor) -> tf.Tensor:
        total, count = tf.unstack(loss_and_count, axis=-1)
        return tf.math.divide_no_nan(total, count)  # 0 where all pixels are ignored

    return Loss(name=name, size=2, sums=sums, value=value)
