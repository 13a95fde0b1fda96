"""Pixel losses: cross-entropy under Keras's names, and focal loss.

    objective.loss = "focal"
    objective.class_weights = (0.5, 2.0)

They are computed from logits, without clipping. Keras's losses from probabilities clip p to [1e-7, 1 - 1e-7] (in float32 to 1 - 1.2e-7): the loss of
a pixel is at most 16.1 and has no gradient beyond. Otherwise the values are equal.

Class weights multiply the loss of each pixel by the weight of its true class. The sum is divided by the number of pixels, not by the sum of the
weights, as with Keras's sample weights. So the weight matters in an image of a single class too.
"""

from collections.abc import Callable

import tensorflow as tf

from flexseg.errors import UserError
from flexseg.objectives.head import Head
from flexseg.objectives.loss import Loss
from flexseg.objectives.pixels import Pixels, sum_pixels

__all__ = ["categorical_crossentropy", "binary_crossentropy", "focal"]


def categorical_crossentropy(head: Head, *, class_weights: tuple[float, ...] | None = None) -> Loss:
    """Categorical cross-entropy: -log p of the true class. Masks are class ids, so Keras's sparse name is the same loss.

    Raises:
      UserError: one sigmoid logit, for which Keras's formula is always 0.
    """
    if head.num_classes == 1:
        raise UserError("objective.loss", expected="a loss that one sigmoid logit can train (num_classes = 1)", found="categorical_crossentropy",
                        cure="objective.loss = 'binary_crossentropy'")  # fmt: skip
    return true_class_crossentropy(head, class_weights=class_weights)


def binary_crossentropy(head: Head, *, class_weights: tuple[float, ...] | None = None) -> Loss:
    """Binary cross-entropy: -(y log p + (1 - y) log(1 - p)).

    With K >= 2 channels it is the mean over channels of one-hot truth and softmax, as in Keras.
    """
    if head.num_classes == 1:
        return mean_over_pixels("binary_crossentropy", lambda pixels: -pixels.log_p_true, head, class_weights)

    def pixel_loss(pixels: Pixels) -> tf.Tensor:
        return -tf.reduce_mean(pixels.truth * pixels.log_p + (pixels.valid - pixels.truth) * pixels.log_q, axis=-1, keepdims=True)

    return mean_over_pixels("binary_crossentropy", pixel_loss, head, class_weights)


def true_class_crossentropy(head: Head, *, class_weights: tuple[float, ...] | None = None) -> Loss:
    """Cross-entropy for any head: binary with one logit, categorical with more."""
    return mean_over_pixels("crossentropy", lambda pixels: -pixels.log_p_true, head, class_weights)


def focal(head: Head, *, focal_gamma: float = 2.0, class_weights: tuple[float, ...] | None = None) -> Loss:
    """Focal loss: -(1 - p)^gamma log p of the true class (Lin et al. 2017, arXiv:1708.02002).

    `class_weights` is the paper's alpha. With gamma 0 it is cross-entropy.
    """

    def pixel_loss(pixels: Pixels) -> tf.Tensor:
        # (1 - p)^gamma as exp(gamma log(1 - p)): its gradient is finite at p = 1 for every gamma; that of tf.pow is infinite for gamma < 1.
        return -tf.exp(focal_gamma * pixels.log_q_true) * pixels.log_p_true

    return mean_over_pixels("focal", pixel_loss, head, class_weights)


def mean_over_pixels(name: str, pixel_loss: Callable[[Pixels], tf.Tensor], head: Head, class_weights: tuple[float, ...] | None = None) -> Loss:
    """Makes a loss that is the mean of a per-pixel loss.

    Args:
      name: name of the loss.
      pixel_loss: Pixels -> [B, H, W, 1], 0 on ignored pixels.
      head: channels and classes.
      class_weights: a weight per class id, or None.

    Raises:
      UserError: the number of weights is not the number of classes.
    """
    head.check_weights(class_weights)

    def sums(pixels: Pixels) -> tf.Tensor:
        values = pixel_loss(pixels)
        if class_weights is not None:
            values *= tf.reduce_sum(pixels.class_truth * tf.constant(class_weights, pixels.dtype), axis=-1, keepdims=True)
        return tf.stack([sum_pixels(values), sum_pixels(pixels.valid)], axis=-1)

    def value(loss_and_count: tf.Tensor) -> tf.Tensor:
        total, count = tf.unstack(loss_and_count, axis=-1)
        return tf.math.divide_no_nan(total, count)  # 0 if all pixels are ignored

    return Loss(name=name, size=2, sums=sums, value=value)
