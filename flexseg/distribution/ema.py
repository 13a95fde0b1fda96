"""ExponentialMovingAverage (EMA) of a model's weights, updated in the step and put in the weights' place for evaluation.

    ema = ExponentialMovingAverage(replicas, model, momentum=0.999)     # in the replicas' scope
    ema.restart()
    with ema.in_place():
        ...                                                             # the model computes with the averages

After every applied step: average ← decay · average + (1 - decay) · weight (Polyak and Juditsky 1992), with decay = min(momentum, (1 + n) / (10 + n))
at update n, so that the first weights are soon forgotten: the formula of `tf.train.ExponentialMovingAverage(num_updates=n)`. Moving statistics of a
normalization are averages already and are left alone.
"""

import contextlib
from collections.abc import Iterator

import keras
import tensorflow as tf

from flexseg.distribution.replicas import Replicas


class ExponentialMovingAverage:
    """The EMA of every trainable weight.

    Args:
      replicas: the devices.
      model: built.
      momentum: the largest decay; `optimizer.ema_momentum`, as Keras calls it.
    """

    def __init__(self, replicas: Replicas, model: keras.Model, *, momentum: float):
        self._replicas, self._momentum = replicas, momentum
        self._weights = model.trainable_variables
        self.variables = [
            tf.Variable(tf.zeros(weight.shape, weight.dtype), trainable=False, name=f"average/{weight.path}") for weight in self._weights
        ]
        self._exchange = tf.function(self._exchange_all, autograph=False)

    def restart(self) -> None:
        """Sets every average to its weight."""
        for average, weight in zip(self.variables, self._weights, strict=True):
            self._replicas.write(average, self._replicas.read(weight))

    def decay(self, count: tf.Tensor) -> tf.Tensor:
        """The decay of update number `count`, counted from 1; a scalar of its dtype."""
        return tf.minimum(tf.constant(self._momentum, count.dtype), (1 + count) / (10 + count))

    def update(self, index: int, weight: tf.Variable, decay: tf.Tensor) -> None:
        """Updates the average of trainable weight `index`, on the device at hand."""
        average = self.variables[index]
        average.assign_sub((1 - decay) * (average - weight))

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Swaps averages and weights while the context is open. Write no checkpoint inside."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def _exchange_all(self) -> None:
        def exchange(weight, index):
            average = self.variables[index]
            kept = tf.identity(weight)
            weight.assign(average)
            average.assign(kept)

        for index, weight in enumerate(self._weights):
            self._replicas.strategy.extended.update(weight.value, exchange, args=(index,), group=False)
