"""Barrel and pincushion distortion and surface-slope displacement, as maps of sampling coordinates.

    y, x = barrel(y, x, size=(512, 512), center=(0.5, 0.5), radius=0.3, amount=0.3)
    displacement = surface_slope(noise, size=(512, 512), sigma=40.0) * 10.0

`flexseg/derivation/deformations.py` (`flexseg derive`) has the same formulas. Coordinates are in pixels with whole numbers at pixel centres; all
arithmetic is float32.
"""

import functools

import numpy as np
import tensorflow as tf

from flexseg.data.color import Number

_TABLE = 4096  # steps from the center of a barrel to its rim


def barrel(
    y: tf.Tensor, x: tf.Tensor, *, size: tuple[int, int], center: tuple[Number, Number] | tf.Tensor, radius: Number, amount: Number
) -> tuple[tf.Tensor, tf.Tensor]:
    """Barrel (amount > 0) or pincushion (amount < 0) distortion: within radius R it scales the distance d from the center by sin(π d / 2R)^amount.

    Args:
      y, x: coordinates float32 [h, w].
      size: (H, W) of the image, Python integers.
      center: (x, y) as fractions of width and height, scalar tensors or numbers.
      radius: R as a fraction of the width; pixels outside do not move.
      amount: the exponent.

    Returns:
      Source coordinates (y, x), float32 [h, w].
    """
    center_y, center_x, reach = center[1] * size[0], center[0] * size[1], radius * size[1]
    dy, dx = y - center_y, x - center_x
    distance = tf.sqrt(dy * dy + dx * dx)
    # Linear interpolation in a table: the last bit of sin and pow over an image depends on the number of threads, and a seed must give one image.
    table = tf.pow(tf.sin(tf.constant(np.linspace(0, np.pi / 2, _TABLE + 1), tf.float32)[1:]), amount)  # of 1, 2, … steps from the center
    # Clipped at half a pixel, because a negative exponent diverges at the center; the center itself does not move.
    position = tf.clip_by_value(distance, tf.minimum(0.5, reach), reach) * (_TABLE / reach) - 1.0
    first = tf.clip_by_value(tf.cast(position, tf.int32), 0, _TABLE - 2)
    low, high = tf.gather(table, first), tf.gather(table, first + 1)
    factor = tf.where(distance < reach, low + (high - low) * (position - tf.cast(first, tf.float32)), 1.0)
    return center_y + factor * dy, center_x + factor * dx


def surface_slope(noise: tf.Tensor, *, size: tuple[int, int], sigma: float) -> tf.Tensor:
    """The gradient of Gaussian-filtered noise, each axis scaled to a maximum absolute value of 1.

    Rows and columns are filtered by products with constant matrices: 2 H W (H + W) multiplications.

    Args:
      noise: standard normal float32 [H, W].
      size: (H, W), Python integers.
      sigma: sigma of the Gaussian in pixels, a Python number.

    Returns:
      float32 [2, H, W] for y and x.
    """
    rows, columns = (tf.constant(_smoothing(length, sigma)) for length in size)
    row_slopes, column_slopes = (tf.constant(_slope(length) @ _smoothing(length, sigma)) for length in size)
    across = tf.matmul(noise, tf.stack([columns, column_slopes]), transpose_b=True)  # [2, H, W]
    slopes = tf.stack([tf.matmul(row_slopes, across[0]), tf.matmul(rows, across[1])])
    return slopes / tf.maximum(tf.reduce_max(tf.abs(slopes), [1, 2], keepdims=True), 1e-12)


@functools.lru_cache
def _smoothing(length: int, sigma: float) -> np.ndarray:
    """Gaussian filter matrix float32 [length, length], truncated at four sigma, with repeated reflect padding (reflect 101)."""
    reach = int(4 * sigma + 0.5)
    offsets = np.arange(-reach, reach + 1)
    weights = np.exp(-0.5 * (offsets / sigma) ** 2)
    positions = np.arange(length)[:, None] + offsets[None, :]
    mirrored = (length - 1) - np.abs(positions % (2 * (length - 1)) - (length - 1))
    matrix = np.zeros((length, length))
    np.add.at(matrix, (np.arange(length)[:, None], mirrored), weights / weights.sum())
    return matrix.astype(np.float32)


@functools.lru_cache
def _slope(length: int) -> np.ndarray:
    """Matrix of np.gradient, float32 [length, length]: central differences, one-sided at the ends."""
    return np.gradient(np.eye(length, dtype=np.float32), axis=0)  # type: ignore[return-value]  # NumPy's stub: as if without an axis
