"""Overlap sums and the formulas of Dice, IoU and Tversky index.

    dice(pooled_overlap(pixels))    # [B]: the reference's `dice_coef` of each example

I is the sum of truth * p (intersection), T the sum of truth, P the sum of p. Pooled sums are over all channels, background included, as in the
reference; class sums are per class.
"""

import tensorflow as tf

from flexseg.objectives.pixels import Pixels, sum_pixels


def pooled_overlap(pixels: Pixels) -> tf.Tensor:
    """[B, 3]: (I, T, P) over the pixels and all channels of an example."""
    return tf.stack([sum_pixels(pixels.truth * pixels.p), sum_pixels(pixels.truth), sum_pixels(pixels.p)], axis=-1)


def dice(overlap: tf.Tensor) -> tf.Tensor:
    """[..., 3] -> [...]: Dice (2 I + 1) / (T + P + 1), the reference's `dice_coef` with its smoothing of 1."""
    both, truth, predicted = tf.unstack(overlap, axis=-1)
    return (2.0 * both + 1.0) / (truth + predicted + 1.0)


def iou(overlap: tf.Tensor) -> tf.Tensor:
    """[..., 3] -> [...]: IoU I / (T + P - I), without smoothing as in the reference; 1 on 0/0, where the reference gives NaN."""
    both, truth, predicted = tf.unstack(overlap, axis=-1)
    union = truth + predicted - both
    return tf.where(union > 0, tf.math.divide_no_nan(both, union), tf.ones_like(union))


def class_overlap(pixels: Pixels, classes: tuple[int, ...]) -> tf.Tensor:
    """[B, 3 F]: I of each of the F `classes`, then T, then P."""
    over_pixels = [tf.reduce_sum(x, axis=[1, 2]) for x in (pixels.class_truth * pixels.class_p, pixels.class_truth, pixels.class_p)]
    return tf.concat([tf.gather(sums, classes, axis=-1) for sums in over_pixels], axis=-1)


def confusion_matrices(pixels: Pixels) -> tf.Tensor:
    """[B, C, C]: confusion matrices, rows are true classes and columns predicted classes; ignored pixels are left out.

    One matrix product of one-hot tensors; 0 and 1 are exact in every precision that accumulates in float32.
    """
    batch, classes = pixels.ids.shape[0] or tf.shape(pixels.ids)[0], pixels.class_truth.shape[-1]
    one_hot = pixels.class_truth, tf.one_hot(pixels.predicted_ids, classes, dtype=pixels.dtype)
    truth, predicted = (tf.reshape(x, [batch, -1, classes]) for x in one_hot)
    return tf.matmul(truth, predicted, transpose_a=True)


def tversky_index(overlap: tf.Tensor, *, alpha: float, beta: float, smooth: float) -> tf.Tensor:
    """[..., 3 F] -> [..., F]: Tversky index (I + s) / (I + alpha FP + beta FN + s) per class (Salehi et al. 2017, arXiv:1706.05721).

    alpha = beta = 1/2 is Dice: (2 I + 2 s) / (T + P + 2 s).
    """
    both, truth, predicted = tf.split(overlap, 3, axis=-1)
    return (both + smooth) / (both + alpha * (predicted - both) + beta * (truth - both) + smooth)
