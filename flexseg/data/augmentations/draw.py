"""The random numbers that one operation draws for one example; all random numbers of augmentation come from here.

    draw = Draw(operation, settings, example_key(seed, position))
    image = draw.applied(image)                       # operation(image, draw=draw) where it happens, else the image

A draw is a pure function of (seed, position, key number). It depends neither on other operations nor on the batch, the worker or the thread.
"""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from flexseg.data.augmentations.operation import Number, Operation, Range

_AUGMENT_KEY = 0x6175676D  # "augm": keeps these draws apart from others with the same seed and position (order of the stream, crops, dropout)


def example_key(seed: int | tf.Tensor, position: tf.Tensor) -> tf.Tensor:
    """The key int64 [2] of all augmentation draws for the example at `position`, an int64 scalar."""
    return _fold(tf.stack([tf.cast(seed, tf.int64), tf.constant(_AUGMENT_KEY, tf.int64)]), position)


class Draw:
    """What happens to one example by one operation.

    Args:
      operation: whose probability and ranges are drawn from.
      settings: has every binding as an attribute.
      key: of `example_key`.

    Attributes:
      operation: the same.
      happens: bool scalar, whether the operation happens to this example.
      shares: float32 [2], uniform in [0, 1), for the operation's numbers.
    """

    def __init__(self, operation: Operation, settings: object, key: tf.Tensor):
        self.operation: Any = operation  # its own class tells what it is called with
        self._settings = settings
        self._key = _fold(key, operation.key_number)
        uniform = _uniform([3], self._key)
        self.happens, self.shares = uniform[0] < getattr(settings, operation.probability_name), uniform[1:]

    def setting(self, binding: Range | Number) -> Any:
        """What is bound: a Python number, or a range's (lowest, highest)."""
        return getattr(self._settings, binding.name)

    def value(self, binding: Range, share: tf.Tensor | None = None, *, otherwise: float | None = None) -> tf.Tensor:
        """A number from a range.

        Args:
          binding: the range.
          share: float32 scalar in [0, 1), the place in the range; by default the first of `shares`.
          otherwise: the neutral value, which stands where the operation does not happen; by default the caller sees to that.
        """
        (lowest, highest), share = self.setting(binding), self.shares[0] if share is None else share
        value = lowest * tf.pow(highest / lowest, share) if binding.logarithmic else lowest + (highest - lowest) * share
        return value if otherwise is None else tf.where(self.happens, value, otherwise)

    def uniform(self, shape: Sequence[int]) -> tf.Tensor:
        """float32 numbers in [0, 1), where `shares` are too few. An operation calls one of `uniform`, `normal` and `truncated_normal`, once."""
        return _uniform(shape, self._more())

    def normal(self, shape: Sequence[int]) -> tf.Tensor:
        """Standard normal float32 numbers."""
        return tf.random.stateless_normal(shape, self._more())

    def truncated_normal(self, shape: Sequence[int]) -> tf.Tensor:
        """Standard normal float32 numbers, none beyond two."""
        return tf.random.stateless_truncated_normal(shape, self._more())

    def _more(self) -> tf.Tensor:
        return _fold(self._key, 1)

    def applied(self, state, **context):
        """`operation(state, draw=self, **context)` where the operation happens, else `state`: a tensor or a tuple of tensors."""
        return tf.cond(self.happens, lambda: self.operation(state, draw=self, **context), lambda: state)


def _uniform(shape: Sequence[int], key: tf.Tensor) -> tf.Tensor:
    """What `tf.random.stateless_uniform` gives on a CPU, everywhere: integers of a key are the same under XLA, but XLA makes floats of other bits."""
    bits = tf.random.stateless_uniform(shape, key, minval=None, maxval=None, dtype=tf.int32, alg="philox")
    return tf.cast(bits & (2**23 - 1), tf.float32) * 2.0**-23


def _fold(key: tf.Tensor, number: int | tf.Tensor) -> tf.Tensor:
    # int64 throughout: with an int32 number fold_in keeps 32 bits of the key only.
    return tf.random.experimental.stateless_fold_in(key, tf.cast(number, tf.int64), alg="philox")
