"""WeightAverages: exponential moving averages of a model's weights, updated in the step and put in the weights' place for evaluation.

    averages = WeightAverages(replicas, model, momentum=0.999)     # in the replicas' scope
    averages.restart()
    with averages.in_place():
        ...                                                        # the model computes with the averages

average ← m · average + (1 - m) · weight after every applied step (Polyak and Juditsky 1992), with m = min(momentum, (1 + n) / (10 + n)) at
update n, so that the weights of the beginning are soon forgotten: the formula of `tf.train.ExponentialMovingAverage(num_updates=n)`. Moving
statistics of a normalization are averages already and stay as they are.
"""

import contextlib
from collections.abc import Iterator

import keras
import tensorflow as tf

from flexseg.distribution.replicas import Replicas


class WeightAverages:
    """One average for each trainable weight.

    Args:
      replicas: the devices.
      model: built.
      momentum: the share of an average that stays at each step.
    """

    def __init__(self, replicas: Replicas, model: keras.Model, *, momentum: float):
        self._replicas, self._momentum = replicas, momentum
        self._weights = model.trainable_variables
        self.variables = [
            tf.Variable(tf.zeros(weight.shape, weight.dtype), trainable=False, name=f"average/{weight.path}") for weight in self._weights
        ]
        self._exchange = tf.function(self._exchange_all, autograph=False)

    def restart(self) -> None:
        """Makes every average the present weight."""
        for average, weight in zip(self.variables, self._weights, strict=True):
            self._replicas.write(average, self._replicas.read(weight))

    def stays(self, count: tf.Tensor) -> tf.Tensor:
        """The share of an average that stays at update `count`, counted from 1."""
        return tf.minimum(tf.constant(self._momentum, count.dtype), (1 + count) / (10 + count))

    def update(self, place: int, weight: tf.Variable, stays: tf.Tensor) -> None:
        """Moves one average towards its weight, on the device at hand."""
        average = self.variables[place]
        average.assign_sub((1 - stays) * (average - weight))

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Exchanges averages and weights while the context is open. A checkpoint belongs outside."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def _exchange_all(self) -> None:
        def exchange(weight, place):
            average = self.variables[place]
            kept = tf.identity(weight)
            weight.assign(average)
            average.assign(kept)

        for place, weight in enumerate(self._weights):
            self._replicas.strategy.extended.update(weight.value, exchange, args=(place,), group=False)
