"""ExponentialMovingAverage: the EMA of a model's weights, updated in the step and swapped in for evaluation.

    ema = ExponentialMovingAverage(replicas, model, momentum=0.999)     # in the scope of the strategy
    ema.restart()
    with ema.in_place():
        ...                                                             # the model has the EMA weights

After every applied step: average ← decay · average + (1 - decay) · weight (Polyak and Juditsky 1992), with decay = min(momentum, (1 + n) / (10 + n))
at update n, as `tf.train.ExponentialMovingAverage(num_updates=n)`, which forgets the first weights soon. Non-trainable variables, such as moving
statistics of batch normalization, have no EMA.
"""

import contextlib
from collections.abc import Iterator

import keras
import tensorflow as tf

from flexseg.distribution.replicas import Replicas


class ExponentialMovingAverage:
    """The EMA of all trainable variables.

    Args:
      replicas: the devices.
      model: a built model.
      momentum: the maximum decay; Keras's name for it, as in `optimizer.ema_momentum`.
    """

    def __init__(self, replicas: Replicas, model: keras.Model, *, momentum: float):
        self._replicas, self._momentum = replicas, momentum
        self._weights = model.trainable_variables
        self.variables = [
            tf.Variable(tf.zeros(weight.shape, weight.dtype), trainable=False, name=f"average/{weight.path}") for weight in self._weights
        ]
        self._exchange = tf.function(self._exchange_all, autograph=False)

    def restart(self) -> None:
        """Sets the EMA to the present weights."""
        for average, weight in zip(self.variables, self._weights, strict=True):
            self._replicas.write(average, self._replicas.read(weight))

    def decay(self, count: tf.Tensor) -> tf.Tensor:
        """The decay of update number `count`, a float scalar that starts from 1; in its dtype."""
        return tf.minimum(tf.constant(self._momentum, count.dtype), (1 + count) / (10 + count))

    def update(self, index: int, weight: tf.Variable, decay: tf.Tensor) -> None:
        """Updates the EMA of trainable variable `index` on the current device."""
        average = self.variables[index]
        average.assign_sub((1 - decay) * (average - weight))

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Swaps weights and EMA while the context is open. Do not write a checkpoint inside."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def _exchange_all(self) -> None:
        def exchange(weight: tf.Variable, index: int) -> None:
            average = self.variables[index]
            previous = tf.identity(weight)
            weight.assign(average)
            average.assign(previous)

        for index, weight in enumerate(self._weights):
            self._replicas.strategy.extended.update(weight.value, exchange, args=(index,), group=False)
