"""StepMetrics: loss and metrics of a step as one vector of sums, for a single all-reduce.

    step_metrics = StepMetrics(loss=loss, reduction="example", metrics=[...])
    loss, values = step_metrics(logits, mask, weight, total_weight=8.0, replicas=2, sum_over_replicas=...)

`values` is [Σ weight · loss, Σ weight, sums of metric 0, …]. Its sum over replicas is that of the global batch.
"""

from collections.abc import Callable, Sequence

import tensorflow as tf

from flexseg.objectives.loss import Loss
from flexseg.objectives.metric import Metric
from flexseg.objectives.supervision import Supervised, main_output


class StepMetrics:
    """Computes loss and metrics of a step.

    Args:
      loss: a loss of this head.
      reduction: `example`, the weighted mean of the losses of the examples, or `batch`, the loss of the sums over the global batch.
      metrics: the metrics.
    """

    def __init__(self, *, loss: Loss | Supervised, reduction: str, metrics: Sequence[Metric]):
        self.loss, self.reduction, self.metrics = loss, reduction, tuple(metrics)

    @property
    def size(self) -> int:
        """The length of `values`."""
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
        """Computes the loss to differentiate and the sums to report.

        Args:
          outputs: logits [B, H, W, K] of the replica's examples; for a model with several outputs a list with the main output first. Metrics use
            the main output.
          mask: uint8 [B, H, W, 1].
          weight: example weights [B].
          total_weight: Σ weight over the global batch; None in evaluation.
          replicas: number of replicas in the global batch.
          sum_over_replicas: all-reduces a vector by sum; called under `batch` only.

        Returns:
          (replica_loss, values). The sum of `replica_loss` over replicas is the loss of the global batch, and likewise for its gradients. Under
          `batch` every replica computes the whole loss, so `replica_loss` is loss / replicas. Under `example` it is None without `total_weight`.
        """
        if self.reduction == "example":
            losses = self.loss.example_loss(outputs, mask)
            weight = tf.cast(weight, losses.dtype)
            weighted = tf.reduce_sum(weight * losses)
            replica_loss = None if total_weight is None else weighted / tf.cast(total_weight, losses.dtype)
        else:
            whole = self.loss.batch_loss(outputs, mask, weight, sum_over_replicas)
            weight = tf.cast(weight, whole.dtype)
            weighted = whole * tf.reduce_sum(weight)
            replica_loss = whole / replicas
        dtype, logits = weighted.dtype, main_output(outputs)
        parts = [tf.cast(metric.sums(logits, mask, weight), dtype) for metric in self.metrics]
        return replica_loss, tf.concat([tf.stack([weighted, tf.reduce_sum(weight)]), *parts], axis=0)
