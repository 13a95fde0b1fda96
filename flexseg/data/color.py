"""Colour, blur and sharpening of images, as pure functions.

For augmentation: float32 [H, W, C] with grey levels 0..255, not clipped or rounded; the caller does that once at the end:

    image = contrast(brightness(image, 12.0), 1.1)

For preprocessing of every split: uint8, as the reference's `[image] gamma` and `sharpening`:

    image = sharpen(apply_gamma(image, 1.5), 1.0)
"""

from typing import TypeAlias

import numpy as np
import tensorflow as tf

Number: TypeAlias = tf.Tensor | float
# RGB to luma (Y) and chroma (I, Q): NTSC 1953, the matrix of `tf.image.rgb_to_yiq`.
_YIQ = np.array([[0.299, 0.587, 0.114], [0.59590059, -0.27455667, -0.32134392], [0.21153661, -0.52273617, 0.31119955]])


def brightness(image: tf.Tensor, levels: Number) -> tf.Tensor:
    """Adds `levels` grey levels to every channel."""
    return image + levels


def contrast(image: tf.Tensor, factor: Number) -> tf.Tensor:
    """Multiplies the difference of every value from the image mean by `factor`."""
    # An integer sum: a float sum depends on the number of threads, and a seed must give the same image on any host.
    total = tf.reduce_sum(tf.cast(tf.round(image), tf.int64))
    mean = tf.cast(total / tf.size(image, tf.int64), tf.float32)
    return (image - mean) * factor + mean


def gamma(image: tf.Tensor, exponent: Number) -> tf.Tensor:
    """Gamma correction 255 (v / 255)^exponent: above 1 darkens, below 1 brightens. Values are clipped to 0..255 first."""
    # Multiplied by the reciprocal: TensorFlow rewrites a division by a constant in some graphs only, which changes the last bit.
    return 255.0 * tf.pow(tf.clip_by_value(image, 0.0, 255.0) * (1.0 / 255.0), exponent)


def hue(image: tf.Tensor, degrees: Number) -> tf.Tensor:
    """Rotates the hue by `degrees` in the I-Q plane; luma and greys do not change. [H, W, 3] only; see `_turn_chroma`."""
    angle = tf.cast(degrees, tf.float32) * (np.pi / 180.0)
    return _turn_chroma(image, tf.cos(angle), tf.sin(angle))


def saturation(image: tf.Tensor, factor: Number) -> tf.Tensor:
    """Multiplies the saturation by `factor` (0 is grey, 1 the identity); luma does not change. [H, W, 3] only."""
    return _turn_chroma(image, factor, 0.0)


def _turn_chroma(image: tf.Tensor, cosine: Number, sine: Number) -> tf.Tensor:
    """Rotates and scales chroma: Y I Q -> Y, (c I - s Q), (s I + c Q), as one 3x3 matrix on RGB.

    Sources: Haeberli, Matrix Operations for Image Processing, 1993; in Y I Q: "fluffy", Affine HSV color manipulation, beesbuzz.biz, 2007. Unlike the
    HSV hue of `tf.image.adjust_hue` it is smooth, and it is cheaper.
    """
    to_yiq, to_rgb = (tf.constant(matrix.astype(np.float32)) for matrix in (_YIQ, np.linalg.inv(_YIQ)))
    turn = tf.stack([tf.stack([1.0, 0.0, 0.0]), tf.stack([0.0, cosine, -sine]), tf.stack([0.0, sine, cosine])])
    matrix = tf.matmul(to_rgb, tf.matmul(turn, to_yiq))
    return tf.reshape(tf.matmul(tf.reshape(image, [-1, 3]), matrix, transpose_b=True), image.shape)


def blur(image: tf.Tensor, sigma: Number, *, radius: int) -> tf.Tensor:
    """Gaussian blur by separable filters of 2 `radius` + 1 taps, with reflect padding (reflect 101).

    Args:
      image: float32 [H, W, C] with H, W > radius.
      sigma: standard deviation in pixels, > 0; the filter is truncated at `radius` and normalized.
      radius: a Python integer, so that one graph works for every sigma; three times the largest sigma is enough.
    """
    channels = image.shape[-1]
    offsets = tf.constant(np.arange(-radius, radius + 1, dtype=np.float32))
    taps = tf.exp(-tf.square(offsets / sigma) / 2.0)
    taps = tf.tile((taps / tf.reduce_sum(taps))[:, None, None, None], [1, 1, channels, 1])
    padded = tf.pad(image, [[radius, radius], [radius, radius], [0, 0]], "REFLECT")[None]
    rows = tf.nn.depthwise_conv2d(padded, taps, [1, 1, 1, 1], "VALID")
    return tf.nn.depthwise_conv2d(rows, tf.transpose(taps, [1, 0, 2, 3]), [1, 1, 1, 1], "VALID")[0]


def apply_gamma(image: tf.Tensor, gamma: float) -> tf.Tensor:
    """Gamma correction of uint8 by a table of (i / 255)^gamma * 255, rounded down as in the reference.

    Args:
      image: uint8 of any shape.
      gamma: a Python number > 0; above 1 darkens.

    Returns:
      uint8 of the same shape.
    """
    table = np.clip((np.arange(256) / 255.0) ** gamma * 255.0, 0, 255).astype(np.uint8)
    return tf.gather(tf.constant(table), tf.cast(image, tf.int32))


def sharpen(image: tf.Tensor, k: float) -> tf.Tensor:
    """Sharpening by a 3x3 filter of -k with a centre of 1 + 8 k, as `cv2.filter2D`: reflect padding (reflect 101), rounded half to even, saturated.

    Args:
      image: uint8 [H, W, C] or [B, H, W, C] with H, W >= 2; the shape may be dynamic.
      k: a Python number >= 0; 0 is the identity. If k is not an exact float, values halfway between two levels may differ by one from OpenCV.

    Returns:
      uint8 of the same shape.
    """
    # The sum of all nine pixels is exact and includes the centre, hence 9 k.
    sharp = tf.cast(image, tf.float32) * (1.0 + 9.0 * k) - tf.cast(_sum_of_nine(tf.cast(image, tf.int32)), tf.float32) * k
    return tf.saturate_cast(tf.round(sharp), tf.uint8)


def unsharp(image: tf.Tensor, k: Number) -> tf.Tensor:
    """`sharpen` for float32 [H, W, C], without rounding; `k` may be a tensor."""
    return image * (1.0 + 9.0 * k) - _sum_of_nine(image) * k


def _sum_of_nine(image: tf.Tensor) -> tf.Tensor:
    """The sum over the 3x3 neighbourhood of every pixel, with reflect padding (reflect 101)."""
    padding = [[0, 0]] * (image.shape.rank - 3) + [[1, 1], [1, 1], [0, 0]]
    around = tf.pad(image, padding, "REFLECT")
    around = around[..., :-2, :, :] + around[..., 1:-1, :, :] + around[..., 2:, :, :]
    return around[..., :-2, :] + around[..., 1:-1, :] + around[..., 2:, :]
