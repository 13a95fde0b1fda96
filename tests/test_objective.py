"""The settings of what is minimised: what is refused, what gin binds, and losses of one's own."""

import gin
import numpy as np
import pytest
import tensorflow as tf

from flexseg.errors import UserError
from flexseg.objectives import Loss, Objective, Pixels, loss_named, register_loss
from flexseg.objectives.pixels import sum_pixels


def toy():
    rng = np.random.default_rng(0)
    return rng.normal(size=(1, 8, 8, 1)), rng.integers(0, 2, size=(1, 8, 8, 1)).astype(np.uint8)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": "dice_los"}, "one of basnet_hybrid_loss, .*Did you mean 'dice_loss'"),
        ({"reduction": "mean"}, "'example' or 'batch', found 'mean'"),
        ({"loss": "bce_dice_loss", "class_weights": (1.0, 2.0)}, "objective.class_weights.*bce_dice_loss takes no settings"),
        ({"focal_gamma": 2.0}, "objective.focal_gamma.*ce_dice takes class_weights, dice_smooth"),
        ({"loss": "focal", "focal_gamma": -1.0}, "at least 0, found -1.0"),
        ({"loss": "tversky", "tversky_alpha": float("nan")}, "objective.tversky_alpha"),
        ({"dice_smooth": 0.0}, "a number above 0"),
        ({"class_weights": (0.0, 0.0)}, "not all 0"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        Objective(**settings)


@pytest.mark.parametrize(
    ("settings", "head", "message"),
    [
        ({"loss": "categorical_crossentropy"}, (1, 0), "objective.loss = 'binary_crossentropy'"),
        ({"class_weights": (1.0, 2.0)}, (6, 5), "6 weights.*found 2"),
        ({"loss": "focal", "class_weights": (1.0,)}, (1, 0), "2 weights"),
        ({"loss": "tversky", "class_weights": (1.0, 2.0)}, (1, 0), "one foreground class"),
        ({"class_weights": (1.0, 0.0)}, (2, 0), "at least one foreground class"),
        ({}, (6, 6), "background: expected a class id from 0 to 5"),
        ({}, (256, None), "num_classes"),
    ],
)
def test_a_loss_that_does_not_fit_the_head_is_refused(settings, head, message):
    with pytest.raises(UserError, match=message):
        Objective(**settings).bind(num_classes=head[0], background=head[1])


def test_gin_binds_the_objective_and_its_settings_reach_the_loss():
    logits, mask = toy()
    expected = loss_named("tversky", num_classes=1, background=0, tversky_alpha=0.2, tversky_beta=0.9, dice_smooth=3.0)
    try:
        gin.parse_config("objective.loss = 'tversky'\nobjective.tversky_alpha = 0.2\nobjective.tversky_beta = 0.9\nobjective.dice_smooth = 3.0")
        loss = Objective().bind(num_classes=1, background=0)
    finally:
        gin.clear_config()
    np.testing.assert_allclose(loss.example_loss(logits, mask), expected.example_loss(logits, mask))


def test_a_loss_of_ones_own_is_found_by_name_and_may_not_take_a_name():
    def mean_error(head, *, focal_gamma=1.0):
        def sums(pixels: Pixels):
            return tf.stack([sum_pixels(tf.abs(pixels.truth - pixels.p) ** focal_gamma), sum_pixels(pixels.valid)], axis=-1)

        return Loss(name="mean_error", size=2, sums=sums, value=lambda s: tf.math.divide_no_nan(s[..., 0], s[..., 1]))

    register_loss(mean_error)
    try:
        logits, mask = toy()
        loss = Objective(loss="mean_error", focal_gamma=2.0).bind(num_classes=1, background=0)
        assert float(loss.example_loss(logits, mask)[0]) == pytest.approx((((mask == 1) - 1 / (1 + np.exp(-logits))) ** 2).mean())
        with pytest.raises(UserError, match="no other loss has"):
            register_loss(mean_error)
    finally:
        from flexseg.objectives import losses

        del losses._BUILDERS["mean_error"]
