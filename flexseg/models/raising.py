"""Raising a map bilinearly by a whole factor, as sums of shifted copies.

    x = BilinearUp(2, name="decoder_0_up")(x)            # [B, H, W, C] to [B, 2 H, 2 W, C]

The same as `keras.layers.UpSampling2D(interpolation="bilinear")` and `tf.image.resize`, whose gradient XLA cannot compute in 16 bits (TF 2.21: "Seen
floating point types of different precisions", its ResizeBilinearGrad answers in float32).
"""

import keras
import numpy as np


class BilinearUp(keras.layers.Layer):
    """Bilinear interpolation at half-pixel centres; beyond the border lies the border.

    Args:
      factor: a whole number of 1 or more.
    """

    def __init__(self, factor: int, *, name: str, dtype=None):
        super().__init__(name=name, dtype=dtype)
        self.factor = factor

    def call(self, x):
        """[B, H, W, C] to [B, factor · H, factor · W, C]."""
        return _raised(_raised(x, 1, self.factor), 2, self.factor)

    def compute_output_shape(self, input_shape):
        """See call."""
        batch, height, width, channels = input_shape
        return batch, height * self.factor, width * self.factor, channels


def _raised(x, axis: int, factor: int):
    """Along one axis: each place becomes `factor` places between itself and the nearer neighbour."""
    ops, length = keras.ops, x.shape[axis]
    first, last = (ops.take(x, [place], axis=axis) for place in (0, length - 1))
    inner = [slice(None)] * 4
    inner[axis] = slice(0, length - 1)
    before = ops.concatenate([first, x[tuple(inner)]], axis=axis)
    inner[axis] = slice(1, length)
    after = ops.concatenate([x[tuple(inner)], last], axis=axis)
    parts = []
    for offset in (np.arange(factor) + 0.5) / factor - 0.5:
        parts.append(float(1 - abs(offset)) * x + float(abs(offset)) * (before if offset < 0 else after))
    shape = list(x.shape)
    shape[0], shape[axis] = -1, length * factor
    return ops.reshape(ops.stack(parts, axis=axis + 1), shape)
