"""Loss: one definition, two reductions.

A loss is `sums`, which gives n numbers for each example, and `value`, which turns n numbers into a loss. Example by example `value` is applied to
each example's sums; over a batch it is applied to the sums of the whole *global* batch. A mean over pixels is (sum of pixel losses, number of
pixels) and their ratio; Dice is (overlap, size of truth, size of prediction) and its formula.

    loss = loss_named("bce_dice_loss", num_classes=1, background=0)
    loss.example_loss(logits, mask)                                         # [B]
    loss.batch_loss(logits, mask, weight, sum_over_replicas=lambda v: v)    # scalar, one replica

It knows no strategy: how sums travel between replicas is injected. Each replica then holds the loss of the global batch, so its gradient is to be
divided by the number of replicas before gradients are summed.
"""

from collections.abc import Callable
from dataclasses import dataclass

import tensorflow as tf

from flexseg.objectives.pixels import Pixels


@dataclass(frozen=True, kw_only=True)
class Loss:
    """A segmentation loss.

    Args:
      name: as in `objective.loss`.
      size: n, how many sums it needs.
      sums: Pixels -> [B, n], sums over each example's pixels that are not ignored.
      value: [..., n] -> [...], the loss of such sums, added over any set of examples; 0 where they count no pixel.
    """

    name: str
    size: int
    sums: Callable[[Pixels], tf.Tensor]
    value: Callable[[tf.Tensor], tf.Tensor]

    def example_loss(self, logits: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        """[B], float32 (float64 for float64 logits): each example's own loss, 0 where all its pixels are ignored.

        Args:
          logits: floating [B, H, W, K].
          mask: uint8 class ids [B, H, W, 1], 255 = ignored.
        """
        return self.value(self.sums(Pixels(logits, mask)))

    def batch_loss(self, logits: tf.Tensor, mask: tf.Tensor, weight: tf.Tensor, sum_over_replicas: Callable[[tf.Tensor], tf.Tensor]) -> tf.Tensor:
        """Scalar: the loss of the global batch taken as one image.

        Args:
          logits: floating [B, H, W, K], this replica's examples.
          mask: uint8 class ids [B, H, W, 1], 255 = ignored.
          weight: [B], 0 for padding.
          sum_over_replicas: adds a vector [n] over all replicas (the identity on one); called exactly once. It must carry gradients.
        """
        sums = self.sums(Pixels(logits, mask))
        return self.value(sum_over_replicas(weighted_total(sums, weight)))


def weighted_total(sums: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
    """[B, n], [B] -> [n]: the examples' sums added by weight."""
    return tf.reduce_sum(sums * tf.cast(weight, sums.dtype)[:, None], axis=0)


def combined(name: str, *terms: tuple[float, Loss]) -> Loss:
    """The weighted sum of losses as one loss, whose sums still cross the network together.

    Args:
      name: of the new loss.
      *terms: (factor, loss) pairs.
    """
    sizes = [loss.size for _, loss in terms]

    def sums(pixels: Pixels) -> tf.Tensor:
        return tf.concat([loss.sums(pixels) for _, loss in terms], axis=-1)

    def value(all_sums: tf.Tensor) -> tf.Tensor:
        parts = tf.split(all_sums, sizes, axis=-1)
        return tf.add_n([factor * loss.value(part) for (factor, loss), part in zip(terms, parts, strict=True)])

    return Loss(name=name, size=sum(sizes), sums=sums, value=value)


def mean_of_examples(name: str, score: Callable[[Pixels], tf.Tensor]) -> Loss:
    """1 - the mean of a per-example score [B] that is 1 at best; examples whose pixels are all ignored do not enter.

    Args:
      name: of the loss.
      score: Pixels -> [B].
    """

    def value(sums: tf.Tensor) -> tf.Tensor:
        missing, examples = tf.unstack(sums, axis=-1)
        return tf.math.divide_no_nan(missing, examples)

    return Loss(name=name, size=2, sums=lambda pixels: example_terms(1.0 - score(pixels), pixels), value=value)


def example_terms(score: tf.Tensor, pixels: Pixels) -> tf.Tensor:
    """[B] -> [B, 2]: (score, 1), or (0, 0) for an example whose pixels are all ignored."""
    counts = tf.reduce_max(pixels.valid, axis=[1, 2, 3])
    return tf.stack([score * counts, counts], axis=-1)
