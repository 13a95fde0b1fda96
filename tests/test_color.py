"""Colour, blur and sharpening, against OpenCV and by their properties."""

import cv2
import numpy as np
import pytest
import tensorflow as tf
import toys

from flexseg.data import color


def test_contrast_keeps_the_mean_and_brightness_adds():
    image = tf.cast(toys.picture("colors", (64, 64)), tf.float32)
    assert np.mean(color.contrast(image, 0.5)) == pytest.approx(np.mean(image), abs=0.01)
    assert np.std(color.contrast(image, 0.5)) == pytest.approx(np.std(image) / 2, rel=1e-3)
    np.testing.assert_allclose(color.brightness(image, -7.0), image - 7)


def test_hue_and_saturation_keep_luma_and_grey_and_saturation_zero_is_grey():
    image, grey = tf.cast(toys.picture("colors", (64, 64)), tf.float32), tf.fill([4, 4, 3], 130.0)
    luma = tf.image.rgb_to_yiq(image)[..., 0]
    for change in (lambda pixels: color.hue(pixels, 40.0), lambda pixels: color.saturation(pixels, 1.7)):
        np.testing.assert_allclose(tf.image.rgb_to_yiq(change(image))[..., 0], luma, atol=1e-2)
        np.testing.assert_allclose(change(grey), grey, atol=1e-2)
    np.testing.assert_allclose(color.saturation(image, 0.0), np.repeat(luma[..., None], 3, -1), atol=1e-2)
    np.testing.assert_allclose(color.hue(image, 360.0), image, atol=1e-2)


def test_blur_agrees_with_opencv():
    image = toys.picture("colors", (64, 64)).astype(np.float32)
    expected = cv2.GaussianBlur(image, (9, 9), 1.5, borderType=cv2.BORDER_REFLECT_101)
    np.testing.assert_allclose(color.blur(tf.constant(image), 1.5, radius=4), expected, atol=1e-2)


@pytest.mark.parametrize("exponent", [0.4, 1.0, 1.5, 2.2])
def test_the_gamma_table_is_the_one_of_the_reference(exponent):
    table = np.clip((np.arange(256) / 255) ** exponent * 255, 0, 255).astype(np.uint8)
    image = toys.picture("colors", (64, 64))
    np.testing.assert_array_equal(color.apply_gamma(tf.constant(image), exponent), cv2.LUT(image, table))


def test_gamma_one_and_sharpening_zero_change_nothing():
    values = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    np.testing.assert_array_equal(color.apply_gamma(tf.constant(values), 1.0), values)
    np.testing.assert_array_equal(color.sharpen(tf.constant(values), 0.0), values)


@pytest.mark.parametrize("k, tolerance", [(1.0, 0), (2, 0), (0.5, 0), (0.3, 1)])  # 0.3 has no exact float: ties may round either way
@pytest.mark.parametrize("channels", [1, 3])
def test_sharpening_agrees_with_opencv(k, tolerance, channels):
    image = np.random.default_rng(0).integers(0, 256, (40, 56, channels), np.uint8)
    image[10:30] = image[10:30] // 16 + 120  # a part that does not saturate
    kernel = np.full((3, 3), -float(k))
    kernel[1, 1] = 1 + 8 * k
    expected = cv2.filter2D(image, -1, kernel).reshape(image.shape)
    sharp = color.sharpen(tf.constant(image), k).numpy()
    assert np.abs(sharp.astype(int) - expected).max() <= tolerance
    np.testing.assert_array_equal(color.sharpen(tf.constant(image[None]), k)[0], sharp)
