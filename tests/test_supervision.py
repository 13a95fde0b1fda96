"""Deep supervision: one loss on several outputs, over examples and over the batch, and a run with it from the command line."""

import functools

import numpy as np
import pytest
import tensorflow as tf
import toy_runs

from flexseg.errors import UserError
from flexseg.objectives.losses import loss_named
from flexseg.objectives.objective import Objective
from flexseg.objectives.step_metrics import StepMetrics
from flexseg.objectives.supervision import Supervised

WEIGHT = np.array([1.0, 0.5, 0.0])
WEIGHTS = (1.0, 0.5, 0.25)


@functools.cache
def given() -> tuple[list[tf.Tensor], tf.Tensor]:
    """(outputs from fine to coarse, masks)."""
    random = np.random.default_rng(0)
    outputs = [tf.constant(random.normal(size=(3, *size, 2))) for size in ((16, 24), (8, 12), (2, 3))]
    return outputs, tf.constant(random.integers(0, 2, (3, 16, 24, 1)).astype(np.uint8))


def losses(loss):
    """Of every output at the mask's size, raised by TensorFlow."""
    outputs, mask = given()
    return [loss.example_loss(tf.cast(tf.image.resize(output, (16, 24)), tf.float64), mask) for output in outputs]


def test_the_loss_is_the_weighted_sum_of_the_outputs_losses():
    outputs, mask = given()
    loss = loss_named("ce_dice", num_classes=2, background=0)
    expected = sum(weight * value for weight, value in zip(WEIGHTS, losses(loss), strict=True))
    np.testing.assert_allclose(Supervised(loss, WEIGHTS).example_loss(outputs, mask), expected, rtol=1e-6)


def test_the_sums_of_all_outputs_cross_the_network_once():
    outputs, mask = given()
    loss, crossed = loss_named("ce_dice", num_classes=2, background=0), []

    def doubled(vector):
        crossed.append(vector.shape)
        return 2 * vector

    found = Supervised(loss, WEIGHTS).batch_loss(outputs, mask, WEIGHT, doubled)
    assert crossed == [(3 * loss.size,)]
    raised = [tf.cast(tf.image.resize(output, (16, 24)), tf.float64) for output in outputs]
    expected = sum(factor * loss.batch_loss(logits, mask, WEIGHT, lambda v: 2 * v) for factor, logits in zip(WEIGHTS, raised, strict=True))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_metrics_are_those_of_the_main_output():
    outputs, mask = given()
    from flexseg.objectives.metrics import metric_named

    metric = metric_named("mean_foreground_dice", num_classes=2, background=0)
    loss = Objective(loss="focal").bind(num_classes=2, background=0, outputs=3)
    step_metrics = StepMetrics(loss=loss, reduction="example", metrics=[metric])
    _, values = step_metrics(outputs, mask, WEIGHT, total_weight=1.5, replicas=1, sum_over_replicas=tf.identity)
    np.testing.assert_allclose(values[2:], tf.cast(metric.sums(outputs[0], mask, WEIGHT), values.dtype))
    mean = sum(losses(loss_named("focal", num_classes=2, background=0))) / 3
    np.testing.assert_allclose(values[0], np.sum(WEIGHT * mean), rtol=1e-6)


@pytest.mark.parametrize(("weights", "outputs", "words"), [
    ((1.0, 0.5), 1, "none for a model with one output"), ((1.0, 0.5), 3, "3 factors"), ((0.0, 1.0, 1.0), 3, "the main output's above 0"), ((1.0, -1.0), 2, "at least 0"),
])  # fmt: skip
def test_weights_that_do_not_fit_are_refused(weights, outputs, words):
    with pytest.raises(UserError, match=f"objective.output_weights: expected .*{words}"):
        Objective(output_weights=weights).bind(num_classes=2, background=0, outputs=outputs)


def test_a_run_with_deep_supervision_trains_resumes_evaluates_and_predicts(toy, tmp_path):
    params = (
        "build_model.architecture=@unet3_plus", "unet3_plus.num_layers=3", "unet3_plus.base_filters=4", "objective.output_weights=(1.0,0.5,0.25)",
        "train.deterministic=True",
    )  # fmt: skip
    toy_runs.train(toy, tmp_path / "whole", *params, "train.epochs=2")
    toy_runs.train(toy, tmp_path / "run", *params, "train.epochs=1")
    assert "resumed after epoch 1" in toy_runs.train(toy, tmp_path / "run", *params, "train.epochs=2")
    assert toy_runs.outcome(tmp_path / "run") == toy_runs.outcome(tmp_path / "whole")
    report, _ = toy_runs.evaluate(tmp_path / "run", split="valid")
    assert 0 <= report["mean_foreground_dice"] <= 1


def test_weights_that_belong_to_a_size_are_not_evaluated_at_another(toy, tmp_path):
    params = (
        "build_model.architecture=@transunet", "transunet.num_layers=2", "transunet.base_filters=8", "transunet.embed_dim=8", "transunet.num_heads=2",
        "transunet.num_transformer=1", "transunet.num_mlp=8", "input.image_size=(32,32)",
    )  # fmt: skip
    with pytest.raises(UserError, match="input.eval_image_size: expected the size of training, 32 × 32"):
        toy_runs.train(toy, tmp_path / "run", *params, "input.eval_image_size=(64,64)")
