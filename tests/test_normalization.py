"""The fused batch normalization against Keras's own."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from flexseg.models.layers.normalization import BatchNormalization


def _pair(policy):
    ours, theirs = BatchNormalization(momentum=0.9, dtype=policy), keras.layers.BatchNormalization(momentum=0.9, dtype=policy)
    for layer in (ours, theirs):
        layer.build((None, 8, 6, 5))
        layer.gamma.assign(tf.linspace(0.5, 2.0, 5))
        layer.beta.assign(tf.linspace(-1.0, 1.0, 5))
    return ours, theirs


@pytest.mark.parametrize(("policy", "tolerance"), [("float32", 1e-5), ("mixed_bfloat16", 2e-2), ("mixed_float16", 2e-3), ("float64", 1e-12)])
@pytest.mark.parametrize("xla", [False, True])
def test_outputs_gradients_and_moving_statistics_are_those_of_keras(policy, tolerance, xla):
    ours, theirs = _pair(policy)
    dtype = ours.compute_dtype
    images = tf.cast(tf.random.stateless_normal([3, 8, 6, 5], [1, 2], 2.0, 3.0), dtype)
    upstream = tf.cast(tf.random.stateless_normal([3, 8, 6, 5], [3, 4]), dtype)

    def results(layer):
        @tf.function(jit_compile=xla)
        def compute():
            with tf.GradientTape() as tape:
                tape.watch(images)
                outputs = layer(images, training=True)
            return [outputs, *tape.gradient(outputs, [images, layer.gamma.value, layer.beta.value], output_gradients=upstream)]

        return [tf.cast(value, tf.float64).numpy() for value in (*compute(), layer.moving_mean.value, layer.moving_variance.value, layer(images))]

    for mine, reference in zip(results(ours), results(theirs), strict=True):
        np.testing.assert_allclose(mine, reference, rtol=tolerance, atol=tolerance * max(1.0, np.abs(reference).max()))


def test_a_layer_that_is_not_trainable_uses_and_keeps_its_moving_statistics():
    ours, _ = _pair("float32")
    ours.trainable = False
    images = tf.random.stateless_normal([3, 8, 6, 5], [1, 2], 2.0, 3.0)
    np.testing.assert_array_equal(ours(images, training=True), ours(images, training=False))
    assert not np.any(ours.moving_mean.numpy())
