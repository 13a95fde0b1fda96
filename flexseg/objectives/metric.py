"""Metric: a segmentation metric as sums over examples, batches and replicas, and a function of the sums.

    metric = metric_named("dice_coef", num_classes=1, background=0)
    total = tf.zeros([metric.size])
    total += metric.sums(logits, mask, weight)     # per batch; totals of replicas can be added
    metric.value(total)

`value` is NaN where the metric is undefined, as `mean_foreground_dice` of an epoch without any foreground pixel.
"""

from collections.abc import Callable
from dataclasses import dataclass

import tensorflow as tf

from flexseg.objectives.loss import weighted_total
from flexseg.objectives.pixels import Pixels


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric of training.

    Args:
      name: name in tables and TensorBoard.
      size: number of sums, n.
      example_sums: Pixels -> [B, n].
      value: [n] -> scalar.
      batch_dependent: whether the metric flattens the batch into one image, as in the reference, so that its value is no mean over examples.
      higher_is_better: direction of an improvement.
      note: a warning to print if the name is misleading; else empty.
    """

    name: str
    size: int
    example_sums: Callable[[Pixels], tf.Tensor]
    value: Callable[[tf.Tensor], tf.Tensor]
    batch_dependent: bool = False
    higher_is_better: bool = True
    note: str = ""

    def sums(self, logits: tf.Tensor, mask: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
        """The weighted sums float32 [n] over examples.

        Args:
          logits: floating [B, H, W, K].
          mask: uint8 class ids [B, H, W, 1], 255 = ignored.
          weight: example weights [B], 0 for padding.
        """
        return tf.cast(weighted_total(self.example_sums(Pixels(logits, mask)), weight), tf.float32)
