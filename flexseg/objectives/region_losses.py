"""Dice and Tversky losses over the foreground classes, without background (MONAI's `include_background=False`): `ce_dice`, `tversky`.

    objective.loss = "tversky"
    objective.tversky_beta = 0.8

The loss is the mean over foreground classes, equal or by class weight, whatever their number of pixels. For a class that is absent from an example
the smoothing makes the loss 0 if it is not predicted, and up to 1 if it is.
"""

import tensorflow as tf

from flexseg.errors import UserError
from flexseg.objectives.head import Head
from flexseg.objectives.loss import Loss, combined
from flexseg.objectives.overlap import class_overlap, tversky_index
from flexseg.objectives.pixel_losses import true_class_crossentropy

__all__ = ["ce_dice", "tversky"]


def ce_dice(head: Head, *, class_weights: tuple[float, ...] | None = None, dice_smooth: float = 1.0) -> Loss:
    """Dice + cross-entropy loss, as in nnU-Net (Isensee et al. 2021, doi:10.1038/s41592-020-01008-z).

    The Dice loss is 1 - the mean over foreground classes of the soft Dice (2 I + s) / (T + P + s). With one sigmoid logit the sum is binary
    cross-entropy + Dice loss of class 1. Class weights multiply the cross-entropy of each pixel and weight the mean over foreground classes.
    """
    index = _foreground_index("dice", head, class_weights, alpha=0.5, beta=0.5, smooth=dice_smooth / 2)
    return combined("ce_dice", (1.0, true_class_crossentropy(head, class_weights=class_weights)), (1.0, index))


def tversky(
    head: Head,
    *,
    tversky_alpha: float = 0.3,
    tversky_beta: float = 0.7,
    class_weights: tuple[float, ...] | None = None,
    dice_smooth: float = 1.0,
) -> Loss:
    """Tversky loss: 1 - (I + s/2) / (I + alpha FP + beta FN + s/2), mean over the foreground classes (Salehi et al. 2017, arXiv:1706.05721).

    alpha weights false positives, beta weights false negatives; alpha = beta = 1/2 is the Dice loss of `ce_dice`. Class weights weight the mean.

    Raises:
      UserError: class weights with a single foreground class, where they have no effect.
    """
    if class_weights is not None and len(head.foreground) == 1:
        raise UserError("objective.class_weights", expected="no class weights: with one foreground class they change nothing in tversky",
                        found=str(class_weights), cure="set tversky_alpha and tversky_beta instead, or objective.loss = 'ce_dice'")  # fmt: skip
    return _foreground_index("tversky", head, class_weights, alpha=tversky_alpha, beta=tversky_beta, smooth=dice_smooth / 2)


def _foreground_index(name: str, head: Head, class_weights: tuple[float, ...] | None, *, alpha: float, beta: float, smooth: float) -> Loss:
    """1 - the weighted mean of the Tversky indices of the foreground classes."""
    head.check_weights(class_weights)
    classes = head.foreground
    weights = [1.0 if class_weights is None else class_weights[c] for c in classes]
    if sum(weights) == 0:
        raise UserError("objective.class_weights", expected="a weight above 0 for at least one foreground class", found=str(class_weights))
    normalized = [weight / sum(weights) for weight in weights]

    def value(overlap: tf.Tensor) -> tf.Tensor:
        per_class = tversky_index(overlap, alpha=alpha, beta=beta, smooth=smooth)
        return 1.0 - tf.reduce_sum(per_class * tf.constant(normalized, per_class.dtype), axis=-1)

    return Loss(name=name, size=3 * len(classes), sums=lambda pixels: class_overlap(pixels, classes), value=value)
