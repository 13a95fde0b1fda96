"""Sampling and displacement fields, against SciPy and by their properties."""

import numpy as np
import scipy.ndimage
import tensorflow as tf
import toys

from flexseg.data import geometry


def test_bilinear_sampling_agrees_with_scipy_far_beyond_the_border():
    image = toys.picture("waves", (20, 33)).astype(np.float32)
    y, x = (np.random.default_rng(2).uniform(-3 * n, 4 * n, (50, 60)).astype(np.float32) for n in image.shape[:2])
    expected = np.stack([scipy.ndimage.map_coordinates(image[..., c], [y, x], order=1, mode="mirror") for c in range(3)], axis=-1)
    np.testing.assert_allclose(geometry.sample_image(tf.constant(image), y, x), expected, atol=5e-3)


def test_the_displacement_field_passes_through_its_control_points_and_reproduces_a_slope():
    size, spacing = (65, 97), 16
    grid = [geometry.control_points(length, spacing) for length in size]
    control = np.random.default_rng(0).normal(size=[2, *grid]).astype(np.float32)
    field = geometry.displacement_field(control, size=size, spacing=spacing).numpy()
    np.testing.assert_allclose(field[:, ::spacing, ::spacing], control[:, 1:-1, 1:-1], atol=1e-5)
    slope = np.broadcast_to(np.arange(grid[1], dtype=np.float32), [2, *grid])
    field = geometry.displacement_field(slope, size=size, spacing=spacing).numpy()
    np.testing.assert_allclose(field, np.broadcast_to(1 + np.arange(97) / spacing, field.shape), atol=1e-5)
