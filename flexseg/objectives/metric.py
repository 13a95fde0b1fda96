"""Metric: sums that add over examples, batches and replicas, and the value of such sums.

    metric = metric_named("dice_coef", num_classes=1, background=0)
    total = tf.zeros([metric.size])
    total += metric.sums(logits, mask, weight)     # per batch; the totals of replicas add as well
    metric.value(total)

`value` of sums that hold nothing to score (an epoch without a foreground pixel for `mean_foreground_dice`) is NaN: there is no such number.
"""

from collections.abc import Callable
from dataclasses import dataclass

import tensorflow as tf

from flexseg.objectives.loss import weighted_total
from flexseg.objectives.pixels import Pixels


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A score that training reports.

    Args:
      name: as in the tables and TensorBoard.
      size: n, how many sums it needs.
      example_sums: Pixels -> [B, n].
      value: [n] -> scalar.
      batch_dependent: True where the reference flattens the batch into one: the value of a batch is then no mean of its examples' values, and
        the value of an epoch's sums is that of the epoch taken as one image.
      higher_is_better: direction, for what keeps the best.
      note: a sentence to print beside it where its name promises something else; else empty.
    """

    name: str
    size: int
    example_sums: Callable[[Pixels], tf.Tensor]
    value: Callable[[tf.Tensor], tf.Tensor]
    batch_dependent: bool = False
    higher_is_better: bool = True
    note: str = ""

    def sums(self, logits: tf.Tensor, mask: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
        """float32 [n]: the sums of the examples given, by weight.

        Args:
          logits: floating [B, H, W, K].
          mask: uint8 class ids [B, H, W, 1], 255 = ignored.
          weight: [B], 0 for padding.
        """
        return tf.cast(weighted_total(self.example_sums(Pixels(logits, mask)), weight), tf.float32)
