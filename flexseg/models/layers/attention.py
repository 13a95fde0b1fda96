"""Layers of transformers: an embedding of positions, attention within windows, a perceptron, and the block of attention and perceptron.

    x = PositionEmbedding(name="positions")(x)                                      # [B, H, W, C]
    attention = WindowAttention(num_heads=4, window=4, shift=2, name="block_0_attention")
    x = transformer_block(x, attention, 512, activation="gelu", epsilon=1e-5, name="block_0")

Maps stay [B, H, W, C] throughout; scores are computed in at least float32.
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from flexseg.models.layers.convolutions import Dense

_FORBIDDEN = -1e4  # added to a score that must not count; far enough for a softmax, and no overflow in 16 bits


class PositionEmbedding(keras.layers.Layer):
    """Adds a learnt vector to every position of the map. The weights belong to one size of map (Dosovitskiy et al. 2020, arXiv:2010.11929)."""

    def build(self, input_shape: tuple[Any, ...]) -> None:
        """Makes the vectors, started as Keras's Embedding starts its own."""
        _, *grid, channels = input_shape
        self.vectors = self.add_weight(shape=(*grid, channels), initializer=keras.initializers.RandomUniform(-0.05, 0.05), name="vectors")

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        """[B, H, W, C] to the same."""
        return x + keras.ops.cast(self.vectors, x.dtype)


class WindowAttention(keras.layers.Layer):
    """Self-attention within windows, every second time shifted by half of one (Liu et al. 2021, arXiv:2103.14030, section 3.2).

    Args:
      num_heads: must divide the channels.
      window: side of the windows, which must divide both sides of the map.
      shift: how far the windows are moved up and to the left; positions that meet only because of it do not see each other.
    """

    def __init__(self, *, num_heads: int, window: int, shift: int, name: str):
        super().__init__(name=name)
        self.num_heads, self.window, self.shift = num_heads, window, shift

    def build(self, input_shape: tuple[Any, ...]) -> None:
        """Makes the projections and a bias for every offset within a window, 0 at first."""
        channels = input_shape[-1]
        self.project_in = Dense(3 * channels, dtype=self.dtype_policy, name="qkv")
        self.project_in.build((None, channels))
        self.project_out = Dense(channels, dtype=self.dtype_policy, name="out")
        self.project_out.build((None, channels))
        self.offset_bias = self.add_weight(shape=((2 * self.window - 1) ** 2, self.num_heads), initializer="zeros", name="offset_bias")

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        """[B, H, W, C] to the same."""
        ops, (_, height, width, channels) = keras.ops, x.shape
        side, heads, area = self.window, self.num_heads, self.window**2
        rows, columns = height // side, width // side
        if self.shift:
            x = ops.roll(x, (-self.shift, -self.shift), (1, 2))
        x = ops.reshape(x, (-1, rows, side, columns, side, channels))
        x = ops.reshape(ops.transpose(x, (0, 1, 3, 2, 4, 5)), (-1, rows * columns, area, channels))
        qkv = ops.reshape(self.project_in(x), (-1, rows * columns, area, 3, heads, channels // heads))
        query, key, value = (qkv[:, :, :, part] for part in range(3))
        scores = ops.einsum("bwihc,bwjhc->bwhij", query * (channels // heads) ** -0.5, key)
        full = "float64" if x.dtype == "float64" else "float32"
        # By a product, because looking rows up would make the weight's gradient a sparse one.
        bias = ops.matmul(ops.cast(np.eye((2 * side - 1) ** 2)[_offsets(side)], full), ops.cast(self.offset_bias, full))
        scores = ops.cast(scores, full) + ops.transpose(bias, (2, 0, 1))
        if self.shift:
            scores = scores + ops.cast(_apart(height, width, side, self.shift)[:, None], full)
        x = ops.einsum("bwhij,bwjhc->bwihc", ops.cast(ops.softmax(scores), x.dtype), value)
        x = self.project_out(ops.reshape(x, (-1, rows * columns, area, channels)))
        x = ops.transpose(ops.reshape(x, (-1, rows, columns, side, side, channels)), (0, 1, 3, 2, 4, 5))
        x = ops.reshape(x, (-1, height, width, channels))
        return ops.roll(x, (self.shift, self.shift), (1, 2)) if self.shift else x

    def compute_output_shape(self, input_shape: tuple[Any, ...]) -> tuple[Any, ...]:
        """That of the input."""
        return input_shape


def _offsets(side: int) -> np.ndarray:
    """int [side², side²]: the index of the offset between two positions of a window."""
    position = np.stack(np.meshgrid(np.arange(side), np.arange(side), indexing="ij")).reshape(2, -1)
    dy, dx = position[:, :, None] - position[:, None, :] + side - 1
    return dy * (2 * side - 1) + dx


def _apart(height: int, width: int, side: int, shift: int) -> np.ndarray:
    """float [windows, side², side²]: forbidden where two positions of a shifted window come from opposite borders of the map."""
    parts = [np.digitize(np.arange(length), (length - side, length - shift)) for length in (height, width)]
    region = parts[0][:, None] * 3 + parts[1][None, :]
    windows = region.reshape(height // side, side, width // side, side).transpose(0, 2, 1, 3).reshape(-1, side * side)
    return np.where(windows[:, :, None] == windows[:, None, :], 0.0, _FORBIDDEN)


def perceptron(x: keras.KerasTensor, hidden: int, *, activation: str, name: str, dropout_rate: float = 0.0) -> keras.KerasTensor:
    """Dense → activation → Dense back to the channels of [B, ..., C], with dropout behind both."""
    channels = x.shape[-1]
    for letter, units in (("a", hidden), ("b", channels)):
        x = Dense(units, name=f"{name}_dense_{letter}")(x)
        if letter == "a":
            x = keras.layers.Activation(activation, name=f"{name}_act")(x)
        if dropout_rate:
            x = keras.layers.Dropout(dropout_rate, name=f"{name}_dropout_{letter}")(x)
    return x


def transformer_block(
    x: keras.KerasTensor, attention: Callable, hidden: int, *, activation: str, epsilon: float, name: str, dropout_rate: float = 0.0
) -> keras.KerasTensor:
    """x + attention(normalized x), then plus a perceptron of that, normalized (Dosovitskiy et al. 2020, arXiv:2010.11929, figure 1).

    Args:
      x: [B, ..., C].
      attention: a function of the normalized x.
      hidden: units between the two layers of the perceptron.
      activation: of the perceptron.
      epsilon: of both LayerNormalizations.
      dropout_rate: of the perceptron.

    Returns: as x.
    """
    y = attention(keras.layers.LayerNormalization(epsilon=epsilon, name=f"{name}_norm_a")(x))
    x = keras.layers.Add(name=f"{name}_add_a")([x, y])
    y = keras.layers.LayerNormalization(epsilon=epsilon, name=f"{name}_norm_b")(x)
    y = perceptron(y, hidden, activation=activation, dropout_rate=dropout_rate, name=f"{name}_mlp")
    return keras.layers.Add(name=f"{name}_add_b")([x, y])
