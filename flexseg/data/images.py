"""Decoding and resizing of images and masks, for training, evaluation, prediction and export.

    image = decode_image(data, channels=3)          # uint8 [h, w, 3]
    image = resize_image(image, (512, 512))         # uint8 [512, 512, 3]

Training and test images must be processed equally. JPEG decoders differ in most pixels unless they use the accurate integer DCT. Two ways of halving
an image differ by up to 49 grey levels unless both antialias.
"""

import tensorflow as tf


def decode_image(data: tf.Tensor, *, channels: int) -> tf.Tensor:
    """Decodes 8-bit PNG or JPEG bytes (scalar string) to uint8 [h, w, channels], channels 1 (luminance) or 3 (RGB)."""
    image = tf.cond(
        tf.io.is_jpeg(data),
        lambda: tf.io.decode_jpeg(data, channels=channels, dct_method="INTEGER_ACCURATE"),
        lambda: tf.io.decode_png(data, channels=channels),
    )
    return tf.ensure_shape(image, [None, None, channels])


def decode_mask(data: tf.Tensor) -> tf.Tensor:
    """Decodes PNG bytes of class ids (scalar string) to uint8 [h, w, 1]."""
    return tf.ensure_shape(tf.io.decode_png(data, channels=1), [None, None, 1])


def resize_values(values: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
    """Resizes [..., h, w, c] to float32 [..., height, width, c], bilinear with antialiasing; `size` = (height, width)."""
    return tf.image.resize(tf.cast(values, tf.float32), size, method="bilinear", antialias=True)


def resize_image(image: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
    """Resizes uint8 [h, w, c] to uint8 [height, width, c], rounded to the nearest grey level."""
    return tf.cast(tf.clip_by_value(tf.round(resize_values(image, size)), 0, 255), tf.uint8)


def resize_mask(mask: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
    """Resizes class ids uint8 [h, w, 1] to [height, width, 1] by nearest neighbour."""
    return tf.image.resize(mask, size, method="nearest")
