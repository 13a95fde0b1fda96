"""The geometry of augmentation as pure functions: one map from every output pixel to its place in the source, sampled once.

    matrix = affine_matrix(rotation_degrees=30.0, scale_factor=1.1, shear_y=0.0, shear_x=0.1)
    y, x = source_coordinates((height, width), matrix, displacement=None)
    image, mask = sample_image(image, y, x), sample_mask(mask, y, x)

Image and mask go through the same (y, x), so they cannot drift apart. Coordinates are in pixels, a pixel's centre is a whole number, all
arithmetic is float32. Sampling is bilinear without a low-pass filter: shrinking far below one half aliases.
Flips and quarter turns are not warps: `permute` moves pixels and never mixes them.
"""

from typing import Literal

import numpy as np
import tensorflow as tf

from flexseg.data.color import Number
from flexseg.files.label_map import IGNORE


def permute(image: tf.Tensor, *, transpose: tf.Tensor | Literal[False], flip_y: tf.Tensor, flip_x: tf.Tensor) -> tf.Tensor:
    """Transposes, then reverses rows, then columns: every flip and quarter turn is one of these eight, exact for any dtype.

    Args:
      image: [H, W, C], any dtype.
      transpose: bool scalar tensor, or False (Python) where H != W and rows cannot become columns.
      flip_y, flip_x: bool scalar tensors: upside down, left to right.

    Returns:
      The same pixels [H, W, C] in another order.
    """
    upright = image if transpose is False else tf.cond(transpose, lambda: _transposed(image), lambda: image)
    flipped = tf.cond(flip_y, lambda: tf.reverse(upright, [0]), lambda: upright)
    return tf.cond(flip_x, lambda: tf.reverse(flipped, [1]), lambda: flipped)


def _transposed(image: tf.Tensor) -> tf.Tensor:
    """[H, W, C] -> [W, H, C], by gathering: asked to transpose uint8, oneDNN prints an error before TensorFlow's own kernel takes over."""
    height, width, channels = image.shape
    order = np.arange(height * width, dtype=np.int32).reshape(height, width).T.ravel()
    return tf.reshape(tf.gather(tf.reshape(image, [height * width, channels]), order), [width, height, channels])


def affine_matrix(*, rotation_degrees: Number, scale_factor: Number, shear_y: Number, shear_x: Number) -> tf.Tensor:
    """The [2, 2] matrix from an output offset (dy, dx) to the source offset, both measured from the image's centre.

    Seen in the output, the content is first sheared (by `shear_y` rows per column and `shear_x` columns per row), then enlarged by
    `scale_factor`, then turned counter-clockwise by `rotation_degrees`. A sampler needs the way back, so this is the inverse of
    that product, in closed form.

    Args:
      rotation_degrees, scale_factor, shear_y, shear_x: float32 scalar tensors or numbers; scale_factor > 0 and shear_y * shear_x < 1.

    Returns:
      float32 [2, 2]; the identity for (0, 1, 0, 0).
    """
    angle = tf.cast(rotation_degrees, tf.float32) * (np.pi / 180.0)
    cosine, sine = tf.cos(angle), tf.sin(angle)
    # Rows run downwards, hence the signs: counter-clockwise on the screen maps (dy, dx) to (c dy - s dx, s dy + c dx); this is its transpose.
    turn_back = tf.stack([tf.stack([cosine, sine]), tf.stack([-sine, cosine])])
    shear_y, shear_x = tf.cast(shear_y, tf.float32), tf.cast(shear_x, tf.float32)
    unshear = tf.stack([tf.stack([1.0, -shear_y]), tf.stack([-shear_x, 1.0])]) / (1.0 - shear_y * shear_x)
    return tf.matmul(unshear, turn_back) / scale_factor


def control_points(length: int, spacing: int) -> int:
    """How many points of the coarse grid an axis of `length` pixels needs: from one spacing before the first pixel to one beyond the last."""
    return -(-(length - 1) // spacing) + 3


def displacement_field(control: tf.Tensor, *, size: tuple[int, int], spacing: int) -> tf.Tensor:
    """Smooth displacements from random ones on a coarse grid (Ronneberger, Fischer, Brox: U-Net, MICCAI 2015, section 3.1).

    Bicubic interpolation (Keys, Cubic convolution interpolation for digital image processing, IEEE TASSP 1981, a = -1/2) is linear in the control
    points and separable, so it is two small matrix products with constant weights.

    Args:
      control: float32 [2, control_points(H), control_points(W)], the displacements (y, x) in pixels.
      size: (H, W), Python integers.
      spacing: pixels between control points.

    Returns:
      float32 [2, H, W], pixels.
    """
    rows, columns = (tf.constant(_bicubic_weights(length, spacing)) for length in size)
    return tf.matmul(tf.matmul(tf.stack([rows, rows]), control), tf.stack([columns, columns]), transpose_b=True)


def _bicubic_weights(length: int, spacing: int) -> np.ndarray:
    """float32 [length, control_points]: how much each control point adds to each pixel. Point j lies at pixel (j - 1) * spacing."""
    place = np.arange(length)[:, None] / spacing + 1.0
    t = np.abs(place - np.arange(control_points(length, spacing))[None, :])
    near, far = 1.5 * t**3 - 2.5 * t**2 + 1.0, -0.5 * t**3 + 2.5 * t**2 - 4.0 * t + 2.0
    return np.where(t <= 1, near, np.where(t < 2, far, 0.0)).astype(np.float32)


def source_coordinates(size: tuple[int, int], matrix: tf.Tensor, displacement: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
    """Where every output pixel comes from: the affine map about the centre, plus the displacement (in source pixels).

    Args:
      size: (H, W), Python integers.
      matrix: float32 [2, 2] of `affine_matrix`.
      displacement: float32 [2, H, W] of `displacement_field`, or None.

    Returns:
      (y, x), each float32 [H, W]; may lie outside of the image.
    """
    center_y, center_x = ((length - 1) / 2.0 for length in size)
    dy = tf.constant(np.arange(size[0], dtype=np.float32)[:, None] - np.float32(center_y))
    dx = tf.constant(np.arange(size[1], dtype=np.float32)[None, :] - np.float32(center_x))
    # [H, 1] + [1, W]: the only operation over the whole plane is the sum.
    y = (matrix[0, 0] * dy + center_y) + matrix[0, 1] * dx
    x = (matrix[1, 1] * dx + center_x) + matrix[1, 0] * dy
    return (y, x) if displacement is None else (y + displacement[0], x + displacement[1])


def sample_image(image: tf.Tensor, y: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
    """Bilinear; beyond the border the image is mirrored about its outermost pixel centres (cv2.BORDER_REFLECT_101), as often as needed.

    Args:
      image: uint8 or float32 [H, W, C] with H, W >= 2.
      y, x: float32 [h, w], source coordinates.

    Returns:
      float32 [h, w, C].
    """
    height, width, channels = image.shape
    top, down = _cell(y, height)
    left, right = _cell(x, width)
    index = top * width + left
    pixels = tf.reshape(image, [height * width, channels])

    def at(offset: int) -> tf.Tensor:
        # Cast after the gather: 3 bytes are fetched faster than 3 floats; packing them with the mask byte into an int32 gained nothing.
        return tf.cast(tf.gather(pixels, index + offset), tf.float32)

    def between(first: tf.Tensor, second: tf.Tensor, share: tf.Tensor) -> tf.Tensor:
        return first + (second - first) * share[..., None]

    upper = between(at(0), at(1), right)
    lower = between(at(width), at(width + 1), right)
    return between(upper, lower, down)


def _cell(coordinate: tf.Tensor, length: int) -> tuple[tf.Tensor, tf.Tensor]:
    """(first, share): mirrored into the image, the coordinate lies `share` (0 to 1) of the way from pixel `first` to the one after it."""
    period = 2.0 * (length - 1)
    inside = (length - 1) - tf.abs(coordinate - period * tf.floor(coordinate * (1.0 / period)) - (length - 1))
    # The last pixel belongs to the cell before it (share 1), so that `first + 1` always exists. Rounding may leave `inside` a hair below 0.
    first = tf.clip_by_value(tf.cast(inside, tf.int32), 0, length - 2)
    return first, inside - tf.cast(first, tf.float32)


def sample_mask(mask: tf.Tensor, y: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
    """The nearest source pixel's id; `IGNORE` where none lies within half a pixel. No id is ever made up.

    Args:
      mask: uint8 [H, W, 1].
      y, x: float32 [h, w], source coordinates.

    Returns:
      uint8 [h, w, 1].
    """
    height, width, _ = mask.shape
    row, column = tf.cast(tf.floor(y + 0.5), tf.int32), tf.cast(tf.floor(x + 0.5), tf.int32)
    row_inside, column_inside = tf.clip_by_value(row, 0, height - 1), tf.clip_by_value(column, 0, width - 1)
    covered = tf.logical_and(tf.equal(row, row_inside), tf.equal(column, column_inside))
    nearest = tf.gather(tf.reshape(mask, [height * width]), row_inside * width + column_inside)
    return tf.where(covered, nearest, tf.constant(IGNORE, tf.uint8))[..., None]
