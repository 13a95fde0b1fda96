"""Measures: the loss and the metrics of a run as one vector of sums, so that they cross the network together, once a step.

    measures = Measures(loss=loss, reduction="example", metrics=[...])
    share, values = measures(logits, mask, weight, total_weight=8.0, replicas=2, sum_over_replicas=...)     # in the graph
    meter = Meter(measures); meter.add(values); meter.results()                                             # on the host

`values` is [Σ weight · loss, Σ weight, sums of metric 0, …]; added over replicas it describes the global batch.
"""

from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from flexseg.objectives.loss import Loss
from flexseg.objectives.metric import Metric
from flexseg.objectives.supervision import Supervised, main_output


class Measures:
    """What is measured in a step.

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

    def __call__(self, outputs, mask, weight, *, total_weight: tf.Tensor | None, replicas: int, sum_over_replicas: Callable):
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


class Meter:
    """Adds the values of steps up to those of an epoch, on the host in float64.

    The loss and the metrics that are means over examples are those of all examples together; the value of a batch-dependent
    metric is the mean of its batches' values, weighted by their examples, as the reference reports it.
    """

    def __init__(self, measures: Measures):
        self._measures = measures
        self.reset()

    def reset(self) -> None:
        """Begins a new epoch."""
        self._loss = np.zeros(2)
        self._sums = [np.zeros(1 if metric.batch_dependent else metric.size) for metric in self._measures.metrics]

    def add(self, values) -> None:
        """Adds the values of one step, float [n] summed over its global batch."""
        values = np.asarray(values, np.float64)
        weight, place = values[1], 2
        self._loss += values[:2]
        for metric, total in zip(self._measures.metrics, self._sums, strict=True):
            sums = values[place : place + metric.size]
            total += weight * _value(metric, sums) if metric.batch_dependent else sums
            place += metric.size

    @property
    def empty(self) -> bool:
        """Whether nothing was added since the last reset."""
        return self._loss[1] == 0

    def results(self) -> dict[str, float]:
        """`loss` and each metric by name; NaN where nothing was counted."""
        if self.empty:
            return {"loss": float("nan"), **{metric.name: float("nan") for metric in self._measures.metrics}}
        found = {"loss": float(self._loss[0] / self._loss[1])}
        for metric, total in zip(self._measures.metrics, self._sums, strict=True):
            found[metric.name] = float(total[0] / self._loss[1]) if metric.batch_dependent else _value(metric, total)
        return found

    def state(self) -> dict:
        """Everything that `restore` needs, as JSON values; exact."""
        return {"loss": self._loss.tolist(), "sums": [total.tolist() for total in self._sums]}

    def restore(self, state: dict) -> None:
        """Continues from `state()`."""
        self._loss, self._sums = np.array(state["loss"]), [np.array(total) for total in state["sums"]]


def _value(metric: Metric, sums: np.ndarray) -> float:
    return float(metric.value(tf.constant(sums, tf.float64)))
