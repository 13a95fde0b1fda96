"""BilinearUpsampling: bilinear upsampling of a map by a whole factor, as two products with fixed matrices.

    x = BilinearUpsampling(2, name="decoder_0_up")(x)            # [B, H, W, C] to [B, 2 H, 2 W, C]

The same as `keras.layers.UpSampling2D(interpolation="bilinear")` and `tf.image.resize`, whose gradient XLA cannot compute in 16 bits (TF 2.21: "Seen
floating point types of different precisions", its ResizeBilinearGrad answers in float32) and which knows no float64. Sums of shifted copies
took 3 to 12 times as long on a CPU (docs/measurements.md).
"""

from typing import Any

import keras
import numpy as np


class BilinearUpsampling(keras.layers.Layer):
    """Bilinear interpolation at half-pixel centres; beyond the border lies the border.

    Args:
      factor: a whole number of 1 or more.
    """

    def __init__(self, factor: int, *, name: str, dtype: str | None = None) -> None:
        super().__init__(name=name, dtype=dtype)
        self.factor = factor

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        """[B, H, W, C] to [B, factor · H, factor · W, C]."""
        ops, (_, height, width, channels) = keras.ops, x.shape
        rows, columns = (ops.convert_to_tensor(interpolation(length, self.factor), x.dtype) for length in (height, width))
        x = ops.matmul(columns, ops.reshape(x, (-1, width, channels)))
        x = ops.matmul(rows, ops.reshape(x, (-1, height, self.factor * width * channels)))
        return ops.reshape(x, self.compute_output_shape((-1, height, width, channels)))

    def compute_output_shape(self, input_shape: tuple[Any, ...]) -> tuple[Any, ...]:
        """See call."""
        batch, height, width, channels = input_shape
        return batch, height * self.factor, width * self.factor, channels


def interpolation(length: int, factor: int) -> np.ndarray:
    """float64 [factor · length, length]: the weight of each input position at each upsampled position."""
    centres = np.clip((np.arange(factor * length) + 0.5) / factor - 0.5, 0, length - 1)
    return np.maximum(0, 1 - np.abs(centres[:, None] - np.arange(length)))
