"""The optimizer's settings: what is built, how gradients are clipped, what is refused. How a step uses them: test_step.py."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from flexseg.errors import UserError
from flexseg.training.optimizers import OptimizerSettings

GRADIENTS = [np.array([[3.0, -4.0], [0.1, 0.0]]), np.array([-2.0, 0.5]), np.zeros(3)]


def keras_clipped(**bound):
    """What Keras makes of the gradients: plain SGD with rate 1 on weights of 0 leaves minus the clipped gradients."""
    weights = [keras.Variable(np.zeros_like(g), dtype="float64") for g in GRADIENTS]
    keras.optimizers.SGD(1.0, **bound).apply([tf.constant(g) for g in GRADIENTS], weights)
    return [-w.numpy() for w in weights]


@pytest.mark.parametrize("bound", [{"clipvalue": 0.3}, {"clipnorm": 1.0}, {"clipnorm": 100.0}, {"global_clipnorm": 1.0}, {"global_clipnorm": 100.0}])
def test_clipping_is_that_of_keras(bound):
    found = OptimizerSettings(**bound).clip()([tf.constant(g) for g in GRADIENTS])
    for ours, theirs in zip(found, keras_clipped(**bound), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_without_a_bound_gradients_pass_as_they_are():
    gradients = [tf.constant(g) for g in GRADIENTS]
    assert OptimizerSettings().clip()(gradients) is gradients


def test_each_name_builds_the_optimizer_of_keras_with_its_defaults():
    sgd = OptimizerSettings(name="SGD", learning_rate=0.2).build()
    assert isinstance(sgd, keras.optimizers.SGD) and sgd.momentum == 0.9 and not sgd.nesterov
    assert float(sgd.learning_rate) == pytest.approx(0.2)
    plain = OptimizerSettings(name="SGD", momentum=0.0).build()
    assert plain.momentum == 0.0, "0 is a value, not a default"
    adam = OptimizerSettings(beta_1=0.5, epsilon=1e-3).build()
    assert isinstance(adam, keras.optimizers.Adam) and (adam.beta_1, adam.beta_2, adam.epsilon) == (0.5, 0.999, 1e-3)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("settings", "plain"),
    [
        ({"name": "Adam", "beta_1": 0.75, "beta_2": 1 - 2**-9, "epsilon": 2**-10}, lambda: keras.optimizers.Adam(0.5, 0.75, 1 - 2**-9, 2**-10)),
        ({"name": "SGD", "momentum": 0.0}, lambda: keras.optimizers.SGD(0.5)),
        ({"name": "SGD", "momentum": 0.75}, lambda: keras.optimizers.SGD(0.5, 0.75)),
        ({"name": "SGD", "momentum": 0.75, "nesterov": True}, lambda: keras.optimizers.SGD(0.5, 0.75, True)),
    ],
)
def test_the_fused_update_is_that_of_keras(settings, plain, dtype):
    ours, plain = OptimizerSettings(learning_rate=0.5, **settings).build(), plain()
    weights = [[keras.Variable(np.ones_like(g), dtype=dtype) for g in GRADIENTS] for _ in range(2)]
    ours.build(weights[0])
    for count in (1, 2, 3):
        gradients = [tf.constant(g / count, dtype) for g in GRADIENTS]
        for gradient, weight in zip(gradients, weights[0], strict=True):
            ours.update_weight(gradient, weight.value, ours.scalars(tf.constant(0.5, dtype)))
        ours.iterations.assign_add(1)
        plain.apply(gradients, weights[1])
    for found, expected in zip([*weights[0], *ours.variables], [*weights[1], *plain.variables], strict=True):
        np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=1e-6 if dtype == "float32" else 1e-13)


def test_decay_is_left_to_the_step_and_has_keras_default():
    settings = OptimizerSettings(name="AdamW")
    assert settings.build().weight_decay is None
    assert settings.decay == keras.optimizers.AdamW().weight_decay == 0.004
    assert OptimizerSettings(name="AdamW", weight_decay=0.0).decay == 0.0
    assert OptimizerSettings(name="Adam").decay == 0.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learning_rate": 0.0}, "optimizer.learning_rate.*above 0.*found 0.0"),
        ({"clipvalue": 1.0, "clipnorm": 1.0}, "at most one.*found clipvalue, clipnorm"),
        ({"global_clipnorm": -1.0}, "optimizer.global_clipnorm.*above 0"),
        ({"name": "Adam", "weight_decay": 0.1}, "optimizer.weight_decay.*AdamW beside it.*found 'Adam'"),
        ({"name": "SGD", "weight_decay": 0.1}, "optimizer.weight_decay"),
        ({"name": "Adam", "momentum": 0.9}, "optimizer.momentum.*SGD"),
        ({"name": "AdamW", "nesterov": True}, "optimizer.nesterov"),
        ({"name": "SGD", "beta_1": 0.9}, "optimizer.beta_1.*Adam or AdamW"),
        ({"name": "SGD", "epsilon": 1e-7}, "optimizer.epsilon"),
    ],
)
def test_settings_that_the_optimizer_would_ignore_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        OptimizerSettings(**settings)
