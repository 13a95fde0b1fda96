"""EpochMetrics: accumulates step metrics over an epoch, on the host in float64.

    epoch_metrics = EpochMetrics(step_metrics)
    epoch_metrics.add(values)                       # after every step, see step_metrics.py
    epoch_metrics.results()                         # {"loss": 0.31, "mean_foreground_dice": 0.82}

Values are at the network's input size; flexseg.evaluation computes scores at each case's own size.
"""

import numpy as np
import tensorflow as tf

from flexseg.objectives.metric import Metric
from flexseg.objectives.step_metrics import StepMetrics


class EpochMetrics:
    """Loss and metrics of an epoch.

    Loss and metrics are means over all examples. A batch-dependent metric is the mean over batches, weighted by their examples, as in the reference.
    """

    def __init__(self, step_metrics: StepMetrics):
        self._step_metrics = step_metrics
        self.reset()

    def reset(self) -> None:
        """Starts a new epoch."""
        self._loss = np.zeros(2)
        self._sums = [np.zeros(1 if metric.batch_dependent else metric.size) for metric in self._step_metrics.metrics]

    def add(self, values: tf.Tensor | np.ndarray) -> None:
        """Adds the values float [n] of a step, summed over the global batch."""
        values = np.asarray(values, np.float64)
        weight, start = values[1], 2
        self._loss += values[:2]
        for metric, total in zip(self._step_metrics.metrics, self._sums, strict=True):
            sums = values[start : start + metric.size]
            total += weight * _value(metric, sums) if metric.batch_dependent else sums
            start += metric.size

    @property
    def empty(self) -> bool:
        """Whether no example was added since the last reset."""
        return self._loss[1] == 0

    def results(self) -> dict[str, float]:
        """{"loss": …, metric name: …}; NaN where there is no example."""
        if self.empty:
            return {"loss": float("nan"), **{metric.name: float("nan") for metric in self._step_metrics.metrics}}
        found = {"loss": float(self._loss[0] / self._loss[1])}
        for metric, total in zip(self._step_metrics.metrics, self._sums, strict=True):
            found[metric.name] = float(total[0] / self._loss[1]) if metric.batch_dependent else _value(metric, total)
        return found

    def state(self) -> dict:
        """The exact state as JSON values."""
        return {"loss": self._loss.tolist(), "sums": [total.tolist() for total in self._sums]}

    def restore(self, state: dict) -> None:
        """Restores `state()`."""
        self._loss, self._sums = np.array(state["loss"]), [np.array(total) for total in state["sums"]]


def _value(metric: Metric, sums: np.ndarray) -> float:
    return float(metric.value(tf.constant(sums, tf.float64)))
