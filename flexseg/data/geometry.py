"""Affine maps, elastic deformation, flips and sampling, as pure functions for augmentation.

    matrix = affine_matrix(rotation_degrees=30.0, scale_factor=1.1, shear_y=0.0, shear_x=0.1)
    y, x = source_coordinates((height, width), matrix, displacement=None)
    image, mask = sample_image(image, y, x), sample_mask(mask, y, x)

Image and mask are sampled once, at the same coordinates (y, x). Coordinates are in pixels with whole numbers at pixel centres; all arithmetic is
float32. Sampling is bilinear without antialiasing: scaling far below one half aliases. `permute` flips and rotates by 90° exactly, without sampling.
"""

from typing import Literal

import numpy as np
import tensorflow as tf

from flexseg.data.color import Number
from flexseg.files.label_map import IGNORE


def permute(image: tf.Tensor, *, transpose: tf.Tensor | Literal[False], flip_y: tf.Tensor, flip_x: tf.Tensor) -> tf.Tensor:
    """Transposes, then flips vertically, then horizontally: all flips and rotations by 90°, exact.

    Args:
      image: [H, W, C] of any dtype.
      transpose: bool scalar tensor, or False (Python), which H != W requires.
      flip_y, flip_x: bool scalar tensors: vertical and horizontal flip.

    Returns:
      The permuted pixels [H, W, C].
    """
    upright = image if transpose is False else tf.cond(transpose, lambda: _transposed(image), lambda: image)
    flipped = tf.cond(flip_y, lambda: tf.reverse(upright, [0]), lambda: upright)
    return tf.cond(flip_x, lambda: tf.reverse(flipped, [1]), lambda: flipped)


def _transposed(image: tf.Tensor) -> tf.Tensor:
    """[H, W, C] -> [W, H, C] by tf.gather: for tf.transpose of uint8, oneDNN prints an error before TensorFlow's kernel runs."""
    height, width, channels = image.shape
    order = np.arange(height * width, dtype=np.int32).reshape(height, width).T.ravel()
    return tf.reshape(tf.gather(tf.reshape(image, [height * width, channels]), order), [width, height, channels])


def affine_matrix(*, rotation_degrees: Number, scale_factor: Number, shear_y: Number, shear_x: Number) -> tf.Tensor:
    """The inverse affine map: from an output offset (dy, dx) to a source offset, both from the image centre.

    The image is sheared (by `shear_y` rows per column and `shear_x` columns per row), then scaled, then rotated. Sampling needs the inverse, which is
    computed in closed form.

    Args:
      rotation_degrees: counter-clockwise rotation in degrees.
      scale_factor: zoom factor > 0; above 1 enlarges.
      shear_y, shear_x: shears with shear_y * shear_x < 1. All arguments are float32 scalar tensors or numbers.

    Returns:
      float32 [2, 2]; the identity for (0, 1, 0, 0).
    """
    angle = tf.cast(rotation_degrees, tf.float32) * (np.pi / 180.0)
    cosine, sine = tf.cos(angle), tf.sin(angle)
    # Rows count downwards: a counter-clockwise rotation maps (dy, dx) to (c dy - s dx, s dy + c dx). This is the transpose.
    turn_back = tf.stack([tf.stack([cosine, sine]), tf.stack([-sine, cosine])])
    shear_y, shear_x = tf.cast(shear_y, tf.float32), tf.cast(shear_x, tf.float32)
    unshear = tf.stack([tf.stack([1.0, -shear_y]), tf.stack([-shear_x, 1.0])]) / (1.0 - shear_y * shear_x)
    return tf.matmul(unshear, turn_back) / scale_factor


def control_points(length: int, spacing: int) -> int:
    """Number of control points for an axis of `length` pixels: from one spacing before the first pixel to at least one beyond the last."""
    return -(-(length - 1) // spacing) + 3


def displacement_field(control: tf.Tensor, *, size: tuple[int, int], spacing: int) -> tf.Tensor:
    """Elastic deformation: upsamples random displacements on a coarse grid (Ronneberger, Fischer, Brox: U-Net, MICCAI 2015, section 3.1).

    Bicubic interpolation (Keys, Cubic convolution interpolation for digital image processing, IEEE TASSP 1981, a = -1/2) is linear and separable, so
    it is two matrix products with constant weights.

    Args:
      control: displacements (y, x) in pixels, float32 [2, control_points(H), control_points(W)].
      size: (H, W), Python integers.
      spacing: pixels between control points.

    Returns:
      Displacements in pixels, float32 [2, H, W].
    """
    rows, columns = (tf.constant(_bicubic_weights(length, spacing)) for length in size)
    return tf.matmul(tf.matmul(tf.stack([rows, rows]), control), tf.stack([columns, columns]), transpose_b=True)


def _bicubic_weights(length: int, spacing: int) -> np.ndarray:
    """Weights float32 [length, control_points] of the control points for each pixel. Control point j is at pixel (j - 1) * spacing."""
    position = np.arange(length)[:, None] / spacing + 1.0
    t = np.abs(position - np.arange(control_points(length, spacing))[None, :])
    near, far = 1.5 * t**3 - 2.5 * t**2 + 1.0, -0.5 * t**3 + 2.5 * t**2 - 4.0 * t + 2.0
    return np.where(t <= 1, near, np.where(t < 2, far, 0.0)).astype(np.float32)


def source_coordinates(size: tuple[int, int], matrix: tf.Tensor, displacement: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
    """Source coordinates of every output pixel: affine map about the centre, plus displacement.

    Args:
      size: (H, W), Python integers.
      matrix: `affine_matrix`, float32 [2, 2].
      displacement: `displacement_field` in source pixels, float32 [2, H, W], or None.

    Returns:
      (y, x), each float32 [H, W]; may be outside of the image.
    """
    center_y, center_x = ((length - 1) / 2.0 for length in size)
    dy = tf.constant(np.arange(size[0], dtype=np.float32)[:, None] - np.float32(center_y))
    dx = tf.constant(np.arange(size[1], dtype=np.float32)[None, :] - np.float32(center_x))
    # [H, 1] + [1, W]: only the sum is computed for every pixel.
    y = (matrix[0, 0] * dy + center_y) + matrix[0, 1] * dx
    x = (matrix[1, 1] * dx + center_x) + matrix[1, 0] * dy
    return (y, x) if displacement is None else (y + displacement[0], x + displacement[1])


def sample_image(image: tf.Tensor, y: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
    """Samples an image bilinearly, with repeated reflect padding (cv2.BORDER_REFLECT_101).

    Args:
      image: uint8 or float32 [H, W, C] with H, W >= 2.
      y, x: source coordinates float32 [h, w].

    Returns:
      float32 [h, w, C].
    """
    height, width, channels = image.shape
    top, down = _cell(y, height)
    left, right = _cell(x, width)
    index = top * width + left
    pixels = tf.reshape(image, [height * width, channels])

    def at(offset: int) -> tf.Tensor:
        # Cast after the gather: 3 bytes are fetched faster than 3 floats. Packing them with the mask into an int32 was no faster.
        return tf.cast(tf.gather(pixels, index + offset), tf.float32)

    def between(first: tf.Tensor, second: tf.Tensor, fraction: tf.Tensor) -> tf.Tensor:
        return first + (second - first) * fraction[..., None]

    upper = between(at(0), at(1), right)
    lower = between(at(width), at(width + 1), right)
    return between(upper, lower, down)


def _cell(coordinate: tf.Tensor, length: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Reflects a coordinate into the image: (first, fraction), where `fraction` (0 to 1) is its distance from pixel `first`."""
    period = 2.0 * (length - 1)
    inside = (length - 1) - tf.abs(coordinate - period * tf.floor(coordinate * (1.0 / period)) - (length - 1))
    # The last pixel has fraction 1 in the cell before it, so that `first + 1` exists. By rounding `inside` may be slightly below 0.
    first = tf.clip_by_value(tf.cast(inside, tf.int32), 0, length - 2)
    return first, inside - tf.cast(first, tf.float32)


def sample_mask(mask: tf.Tensor, y: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
    """Samples a mask by nearest neighbour; `IGNORE` (255) outside of the image.

    Args:
      mask: class ids uint8 [H, W, 1].
      y, x: source coordinates float32 [h, w].

    Returns:
      uint8 [h, w, 1].
    """
    height, width, _ = mask.shape
    row, column = tf.cast(tf.floor(y + 0.5), tf.int32), tf.cast(tf.floor(x + 0.5), tf.int32)
    row_inside, column_inside = tf.clip_by_value(row, 0, height - 1), tf.clip_by_value(column, 0, width - 1)
    covered = tf.logical_and(tf.equal(row, row_inside), tf.equal(column, column_inside))
    nearest = tf.gather(tf.reshape(mask, [height * width]), row_inside * width + column_inside)
    return tf.where(covered, nearest, tf.constant(IGNORE, tf.uint8))[..., None]
