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
    assert type(sgd) is keras.optimizers.SGD and sgd.momentum == 0.9 and not sgd.nesterov
    assert float(sgd.learning_rate) == pytest.approx(0.2)
    plain = OptimizerSettings(name="SGD", momentum=0.0).build()
    assert plain.momentum == 0.0, "0 is a value, not a default"
    adam = OptimizerSettings(beta_1=0.5, epsilon=1e-3).build()
    assert type(adam) is keras.optimizers.Adam and (adam.beta_1, adam.beta_2, adam.epsilon) == (0.5, 0.999, 1e-3)


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
