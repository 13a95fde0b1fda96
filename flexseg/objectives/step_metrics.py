"""StepMetrics: the loss and the metrics of a run as one vector of sums, so that they cross the network together, once a step.

    step_metrics = StepMetrics(loss=loss, reduction="example", metrics=[...])
    share, values = step_metrics(logits, mask, weight, total_weight=8.0, replicas=2, sum_over_replicas=...)

`values` is [Σ weight · loss, Σ weight, sums of metric 0, …]; added over replicas it describes the global batch.
"""

from collections.abc import Callable, Sequence

import tensorflow as tf

from flexseg.objectives.loss import Loss
from flexseg.objectives.metric import Metric
from flexseg.objectives.supervision import Supervised, main_output


class StepMetrics:
    """The loss and the metrics of a step.

    Args:
      loss: bound to the head.
      reduction: `example` (weighted mean of the examples' losses) or `batch` (the loss of the global batch's sums).
      metrics: followed beside it.
    """

    def __init__(self, *, loss: Loss | Supervised, reduction: str, metrics: Sequence[Metric]):
        self.loss, self.reduction, self.metrics = loss, reduction, tuple(metrics)

    @property
    def size(self) -> int:
        """Length of `values`."""
        return 2 + sum(metric.size for metric in self.metrics)

    def __call__(
        self,
        outputs: tf.Tensor | Sequence[tf.Tensor],
        mask: tf.Tensor,
        weight: tf.Tensor,
        *,
        total_weight: tf.Tensor | None,
        replicas: int,
        sum_over_replicas: Callable,
    ) -> tuple[tf.Tensor | None, tf.Tensor]:
        """The loss to differentiate and the sums to report.

        Args:
          outputs: logits [B, H, W, K] of this replica's examples; of a model with several outputs a list, the main one, which is measured, first.
          mask: uint8 [B, H, W, 1].
          weight: [B].
          total_weight: Σ weight over the global batch; None where nothing is differentiated (evaluation).
          replicas: how many hold a share of the global batch.
          sum_over_replicas: adds a vector over replicas; used under `batch` only.

        Returns:
          (share, values): `share` summed over replicas is the loss of the global batch, and so are its gradients
          (under `batch` every replica holds the whole loss, hence the division); None without `total_weight`.
        """
        if self.reduction == "example":
            losses = self.loss.example_loss(outputs, mask)
            weight = tf.cast(weight, losses.dtype)
            weighted = tf.reduce_sum(weight * losses)
            share = None if total_weight is None else weighted / tf.cast(total_weight, losses.dtype)
        else:
            whole = self.loss.batch_loss(outputs, mask, weight, sum_over_replicas)
            weight = tf.cast(weight, whole.dtype)
            weighted = whole * tf.reduce_sum(weight)
            share = whole / replicas
        dtype, logits = weighted.dtype, main_output(outputs)
        parts = [tf.cast(metric.sums(logits, mask, weight), dtype) for metric in self.metrics]
        return share, tf.concat([tf.stack([weighted, tf.reduce_sum(weight)]), *parts], axis=0)
