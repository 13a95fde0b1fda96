"""Loss: a segmentation loss with two reductions, per example or over the global batch.

    loss = loss_named("bce_dice_loss", num_classes=1, background=0)
    loss.example_loss(logits, mask)                                         # [B]
    loss.batch_loss(logits, mask, weight, sum_over_replicas=lambda v: v)    # scalar, one replica

A loss has two parts. `sums` gives n sums per example; `value` turns n sums into a loss. The example reduction applies `value` to the sums of each
example, the batch reduction to the sums over the global batch. For a mean over pixels the sums are (sum of pixel losses, number of pixels); for Dice
they are (intersection, truth, prediction).

The caller supplies the all-reduce of the batch reduction. Each replica then has the loss of the global batch, so divide it by the number of replicas
before the gradients are summed.
"""

from collections.abc import Callable
from dataclasses import dataclass

import tensorflow as tf

from flexseg.objectives.pixels import Pixels


@dataclass(frozen=True, kw_only=True)
class Loss:
    """A segmentation loss.

    Args:
      name: name in `objective.loss`.
      size: number of sums, n.
      sums: Pixels -> [B, n], sums over the pixels of each example that are not ignored.
      value: [..., n] -> [...], the loss of the sums of any set of examples; 0 if they have no pixel.
    """

    name: str
    size: int
    sums: Callable[[Pixels], tf.Tensor]
    value: Callable[[tf.Tensor], tf.Tensor]

    def example_loss(self, logits: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        """The loss of each example [B], float32 (float64 for float64 logits); 0 if all its pixels are ignored.

        Args:
          logits: floating [B, H, W, K].
          mask: uint8 class ids [B, H, W, 1], 255 = ignored.
        """
        return self.value(self.sums(Pixels(logits, mask)))

    def batch_loss(self, logits: tf.Tensor, mask: tf.Tensor, weight: tf.Tensor, sum_over_replicas: Callable[[tf.Tensor], tf.Tensor]) -> tf.Tensor:
        """The loss (scalar) of the global batch, flattened into one image.

        Args:
          logits: floating [B, H, W, K] of the replica's examples.
          mask: uint8 class ids [B, H, W, 1], 255 = ignored.
          weight: example weights [B], 0 for padding.
          sum_over_replicas: all-reduces a vector [n] by sum, with gradients (the identity on one replica); called once.
        """
        sums = self.sums(Pixels(logits, mask))
        return self.value(sum_over_replicas(weighted_total(sums, weight)))


def weighted_total(sums: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
    """[B, n], [B] -> [n]: the weighted sum over examples."""
    return tf.reduce_sum(sums * tf.cast(weight, sums.dtype)[:, None], axis=0)


def combined(name: str, *terms: tuple[float, Loss]) -> Loss:
    """The weighted sum of losses as one loss, which needs a single all-reduce.

    Args:
      name: name of the new loss.
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
    """Makes a loss: 1 - the mean of a score per example. Examples whose pixels are all ignored are left out.

    Args:
      name: name of the loss.
      score: Pixels -> [B], at most 1.
    """

    def value(sums: tf.Tensor) -> tf.Tensor:
        missing, examples = tf.unstack(sums, axis=-1)
        return tf.math.divide_no_nan(missing, examples)

    return Loss(name=name, size=2, sums=lambda pixels: example_terms(1.0 - score(pixels), pixels), value=value)


def example_terms(score: tf.Tensor, pixels: Pixels) -> tf.Tensor:
    """[B] -> [B, 2]: (score, 1), or (0, 0) if all pixels of the example are ignored."""
    counts = tf.reduce_max(pixels.valid, axis=[1, 2, 3])
    return tf.stack([score * counts, counts], axis=-1)
