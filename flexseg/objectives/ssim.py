"""Structural similarity (SSIM) of images with values from 0 to 1, equal to `tf.image.ssim(a, b, max_val=1)`.

    ssim(truth, p)   # [B]

`tf.image.ssim` computes in float32 for every dtype and filters by a convolution. Its variances are E[x^2] - E[x]^2; a convolution in TF32, the
default for float32 on GPUs, has errors of 1e-3 there, more than the stabilizing constants C1 and C2. This version keeps the dtype and filters by
eleven shifted sums per axis: exact, deterministic, and one fused kernel under XLA.
"""

import math

import tensorflow as tf

from flexseg.errors import UserError

# Wang et al. 2004 (doi:10.1109/TIP.2003.819861), with the values of tf.image.ssim.
WINDOW, SIGMA, K1, K2 = 11, 1.5, 0.01, 0.03


def ssim(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """SSIM [B]: the mean over all positions of the 11 x 11 window and all channels.

    Args:
      a, b: floating [B, H, W, C], values from 0 to 1, H and W at least 11.

    Raises:
      UserError: smaller images.
    """
    height, width, channels = a.shape[1:]
    if min(height, width) < WINDOW:
        raise UserError("objective.loss", expected=f"images of at least {WINDOW} x {WINDOW} pixels for a loss with SSIM", found=f"{height} x {width}",
                        cure="choose another loss or larger images")  # fmt: skip
    # The window runs once over all four moments.
    moments = _blur(tf.concat([a, b, a * b, a * a + b * b], axis=-1))
    mean_a, mean_b, mean_ab, mean_squares = tf.split(moments, [channels] * 4, axis=-1)
    c1, c2 = K1**2, K2**2
    product, squares = mean_a * mean_b, mean_a * mean_a + mean_b * mean_b
    luminance = (2.0 * product + c1) / (squares + c1)
    contrast_structure = (2.0 * (mean_ab - product) + c2) / (mean_squares - squares + c2)
    return tf.reduce_mean(luminance * contrast_structure, axis=[1, 2, 3])


def _blur(images: tf.Tensor) -> tf.Tensor:
    """Gaussian filter with valid padding: [B, H, W, C] -> [B, H - 10, W - 10, C]."""
    taps = [math.exp(-((i - WINDOW // 2) ** 2) / (2 * SIGMA**2)) for i in range(WINDOW)]
    taps = [tap / sum(taps) for tap in taps]
    rows, columns = images.shape[1] - WINDOW + 1, images.shape[2] - WINDOW + 1
    down = tf.add_n([tap * images[:, i : i + rows] for i, tap in enumerate(taps)])
    return tf.add_n([tap * down[:, :, i : i + columns] for i, tap in enumerate(taps)])
