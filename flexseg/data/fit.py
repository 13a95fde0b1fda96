"""Resize, padding, windows and random crops of a case, for the Fit of training and the Splitters of evaluation.

    image, mask = fit_example(image, mask, size=(512, 512), fit="pad")

Padding reflects the image and is 255 (ignored) in the mask.
"""

import tensorflow as tf

from flexseg.data.images import resize_image, resize_mask
from flexseg.files.label_map import IGNORE


def _reflected(start: tf.Tensor, count: int, length: tf.Tensor) -> tf.Tensor:
    """Source indices of `count` pixels from `start` on, in a line of `length` pixels with reflect padding (reflect 101)."""
    period = tf.maximum(2 * (length - 1), 1)
    offset = tf.math.floormod(start + tf.range(count), period)
    return tf.minimum(offset, period - offset)


def window(image: tf.Tensor, mask: tf.Tensor, top: tf.Tensor, left: tf.Tensor, size: tuple[int, int]) -> tuple[tf.Tensor, tf.Tensor]:
    """The window of a case with its corner at (top, left); beyond the border the image is reflected and the mask is 255.

    Args:
      image, mask: uint8 [h, w, C] and uint8 [h, w, 1].
      top, left: int32 scalars; may be negative.
      size: (height, width) of the window in pixels.
    """
    height, width = tf.shape(image)[0], tf.shape(image)[1]
    rows, columns = top + tf.range(size[0]), left + tf.range(size[1])
    inside = ((rows >= 0) & (rows < height))[:, None] & ((columns >= 0) & (columns < width))[None, :]
    rows, columns = _reflected(top, size[0], height), _reflected(left, size[1], width)
    image = tf.gather(tf.gather(image, rows), columns, axis=1)
    mask = tf.gather(tf.gather(mask, rows), columns, axis=1)
    mask = tf.where(inside[..., None], mask, tf.constant(IGNORE, tf.uint8))
    return image, mask


def fit_example(image: tf.Tensor, mask: tf.Tensor, *, size: tuple[int, int], fit: str) -> tuple[tf.Tensor, tf.Tensor]:
    """Resizes or pads image uint8 [h, w, C] and mask uint8 [h, w, 1] to `size` = (height, width).

    Args:
      image, mask: the example.
      size: (height, width) in pixels.
      fit: `resize`, or `pad` at the bottom and on the right.

    Raises:
      tf.errors.InvalidArgumentError: under `pad`, the image is larger than `size`; callers check sizes before.
    """
    channels = image.shape[-1]
    if fit == "resize":
        image, mask = resize_image(image, size), resize_mask(mask, size)
    else:
        tf.debugging.assert_less_equal(tf.shape(image)[:2], tf.constant(size), message="an image is larger than the padded input")
        image, mask = window(image, mask, tf.constant(0), tf.constant(0), size)
    return tf.ensure_shape(image, [*size, channels]), tf.ensure_shape(mask, [*size, 1])


def random_crop(
    image: tf.Tensor, mask: tf.Tensor, *, size: tuple[int, int], key: tf.Tensor, foreground_probability: float, background: int | None
) -> tuple[tf.Tensor, tf.Tensor]:
    """Random crop, a pure function of `key`.

    Args:
      image, mask: uint8 [h, w, C] and uint8 [h, w, 1]. A side that is shorter than the crop is centred and padded.
      size: (height, width) in pixels.
      key: stateless seed, int64 [2].
      foreground_probability: probability that the crop is centred on a random foreground pixel, if there is one; otherwise its place is uniform.
      background: class id of the background, or None; foreground pixels are neither background nor ignored.
    """
    height, width = tf.shape(image)[0], tf.shape(image)[1]
    draw = tf.random.stateless_uniform([4], seed=key)
    spare = [height - size[0], width - size[1]]

    def anywhere() -> tf.Tensor:
        return tf.stack([_place(draw[0], spare[0]), _place(draw[1], spare[1])])

    def on_foreground() -> tf.Tensor:
        flat = tf.reshape(mask, [-1])
        found = tf.where((flat != IGNORE) & (flat != (IGNORE if background is None else background)))[:, 0]
        count = tf.size(found)

        def centred() -> tf.Tensor:
            pixel = tf.cast(found[tf.minimum(tf.cast(draw[3] * tf.cast(count, tf.float32), tf.int32), count - 1)], tf.int32)
            corner = [pixel // width - size[0] // 2, pixel % width - size[1] // 2]
            return tf.stack(
                [tf.clip_by_value(c, tf.minimum(s, 0) // 2, tf.maximum(s, tf.minimum(s, 0) // 2)) for c, s in zip(corner, spare, strict=True)]
            )

        return tf.cond(count > 0, centred, anywhere)

    corner = tf.cond(draw[2] < foreground_probability, on_foreground, anywhere) if foreground_probability else anywhere()
    cropped_image, cropped_mask = window(image, mask, corner[0], corner[1], size)
    return tf.ensure_shape(cropped_image, [*size, image.shape[-1]]), tf.ensure_shape(cropped_mask, [*size, 1])


def _place(draw: tf.Tensor, spare: tf.Tensor) -> tf.Tensor:
    """A corner from 0 to `spare`; half of `spare` if it is negative because the image is smaller than the crop."""
    inside = tf.cast(draw * tf.cast(spare + 1, tf.float32), tf.int32)
    return tf.where(spare > 0, tf.minimum(inside, spare), spare // 2)
