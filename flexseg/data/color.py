"""Colour and sharpness as pure functions.

Augmentation: float32 [H, W, C], grey levels 0..255, in and out, neither clipped nor rounded (the caller does that once, at the end):

    image = contrast(brightness(image, 12.0), 1.1)

Input options, applied to every split alike, uint8 in and out (the reference system's `[image] gamma` and `sharpening`):

    image = sharpen(apply_gamma(image, 1.5), 1.0)

Nothing here touches a mask.
"""

from typing import TypeAlias

import numpy as np
import tensorflow as tf

# RGB to luma (Y) and the two axes of chroma (I, Q): NTSC 1953, the numbers of `tf.image.rgb_to_yiq`.
Number: TypeAlias = tf.Tensor | float
_YIQ = np.array([[0.299, 0.587, 0.114], [0.59590059, -0.27455667, -0.32134392], [0.21153661, -0.52273617, 0.31119955]])


def brightness(image: tf.Tensor, levels: Number) -> tf.Tensor:
    """Adds `levels` grey levels to every channel."""
    return image + levels


def contrast(image: tf.Tensor, factor: Number) -> tf.Tensor:
    """Stretches the distance of every value to the image's mean by `factor`."""
    # Summed as whole numbers: a float sum depends on how many threads share it, and the same seed should give the same image on any host.
    total = tf.reduce_sum(tf.cast(tf.round(image), tf.int64))
    mean = tf.cast(total / tf.size(image, tf.int64), tf.float32)
    return (image - mean) * factor + mean


def gamma(image: tf.Tensor, exponent: Number) -> tf.Tensor:
    """255 (v / 255)^exponent: above 1 darkens, below 1 lightens; 0 and 255 stay. Values outside 0..255 are clipped first."""
    # Times the reciprocal: TensorFlow rewrites a division by a constant so in some graphs and not in others, and the last bit would depend on it.
    return 255.0 * tf.pow(tf.clip_by_value(image, 0.0, 255.0) * (1.0 / 255.0), exponent)


def hue(image: tf.Tensor, degrees: Number) -> tf.Tensor:
    """Turns the colours about the grey axis by `degrees` in the plane of I and Q; luma and greys stay. [H, W, 3] only; see `_turn_chroma`."""
    angle = tf.cast(degrees, tf.float32) * (np.pi / 180.0)
    return _turn_chroma(image, tf.cos(angle), tf.sin(angle))


def saturation(image: tf.Tensor, factor: Number) -> tf.Tensor:
    """Stretches the colours away from grey by `factor` (0 is grey, 1 changes nothing); luma stays. [H, W, 3] only."""
    return _turn_chroma(image, factor, 0.0)


def _turn_chroma(image: tf.Tensor, cosine: Number, sine: Number) -> tf.Tensor:
    """Y I Q -> Y, (c I - s Q), (s I + c Q), as one 3x3 matrix on RGB.

    Linear colour operations as matrices: Haeberli, Matrix Operations for Image Processing, 1993; in Y I Q: "fluffy", Affine HSV color manipulation,
    beesbuzz.biz, 2007. It is not the hexagonal hue of HSV (`tf.image.adjust_hue`): cheaper, and without seams.
    """
    to_yiq, to_rgb = (tf.constant(matrix.astype(np.float32)) for matrix in (_YIQ, np.linalg.inv(_YIQ)))
    turn = tf.stack([tf.stack([1.0, 0.0, 0.0]), tf.stack([0.0, cosine, -sine]), tf.stack([0.0, sine, cosine])])
    matrix = tf.matmul(to_rgb, tf.matmul(turn, to_yiq))
    return tf.reshape(tf.matmul(tf.reshape(image, [-1, 3]), matrix, transpose_b=True), image.shape)


def blur(image: tf.Tensor, sigma: Number, *, radius: int) -> tf.Tensor:
    """Gaussian blur by a row and a column filter of 2 `radius` + 1 taps, mirrored at the border (reflect 101).

    Args:
      image: float32 [H, W, C] with H, W > radius.
      sigma: standard deviation in pixels, > 0; the tail beyond `radius` is cut and the rest sums to 1.
      radius: a Python integer, so that one graph serves every sigma; three times the largest sigma is plenty.
    """
    channels = image.shape[-1]
    offsets = tf.constant(np.arange(-radius, radius + 1, dtype=np.float32))
    taps = tf.exp(-tf.square(offsets / sigma) / 2.0)
    taps = tf.tile((taps / tf.reduce_sum(taps))[:, None, None, None], [1, 1, channels, 1])
    padded = tf.pad(image, [[radius, radius], [radius, radius], [0, 0]], "REFLECT")[None]
    rows = tf.nn.depthwise_conv2d(padded, taps, [1, 1, 1, 1], "VALID")
    return tf.nn.depthwise_conv2d(rows, tf.transpose(taps, [1, 0, 2, 3]), [1, 1, 1, 1], "VALID")[0]


def noise(image: tf.Tensor, std: Number, *, seed: tf.Tensor) -> tf.Tensor:
    """Adds independent Gaussian noise of `std` grey levels to every value. `seed`: int64 [2], a stateless key."""
    return image + std * tf.random.stateless_normal(image.shape, seed)


def apply_gamma(image: tf.Tensor, gamma: float) -> tf.Tensor:
    """Looks every value up in the table (i / 255)^gamma * 255, fractions dropped as in the reference system.

    Args:
      image: uint8, any shape.
      gamma: a Python number > 0; above 1 darkens.

    Returns:
      uint8, the same shape.
    """
    table = np.clip((np.arange(256) / 255.0) ** gamma * 255.0, 0, 255).astype(np.uint8)
    return tf.gather(tf.constant(table), tf.cast(image, tf.int32))


def sharpen(image: tf.Tensor, k: float) -> tf.Tensor:
    """The 3x3 filter of -k around a centre of 1 + 8 k, as `cv2.filter2D` on uint8: mirrored border (reflect 101), rounded half to even, saturated.

    Args:
      image: uint8 [H, W, C] or [B, H, W, C], H and W >= 2, static or not.
      k: a Python number >= 0; 0 changes nothing. Where k has no exact float, values halfway between two levels may differ by one from OpenCV's.

    Returns:
      uint8, the same shape.
    """
    # The sum of the nine is exact; the centre is in it once, hence 9 k.
    sharp = tf.cast(image, tf.float32) * (1.0 + 9.0 * k) - tf.cast(_sum_of_nine(tf.cast(image, tf.int32)), tf.float32) * k
    return tf.saturate_cast(tf.round(sharp), tf.uint8)


def unsharp(image: tf.Tensor, k: Number) -> tf.Tensor:
    """The same filter on float32 [H, W, C], unrounded; `k` may be a tensor."""
    return image * (1.0 + 9.0 * k) - _sum_of_nine(image) * k


def _sum_of_nine(image: tf.Tensor) -> tf.Tensor:
    """Of every pixel and its neighbours, mirrored at the border (reflect 101)."""
    padding = [[0, 0]] * (image.shape.rank - 3) + [[1, 1], [1, 1], [0, 0]]
    around = tf.pad(image, padding, "REFLECT")
    around = around[..., :-2, :, :] + around[..., 1:-1, :, :] + around[..., 2:, :, :]
    return around[..., :-2, :] + around[..., 1:-1, :] + around[..., 2:, :]
