"""Metrics against formulas worked by hand in NumPy; sums that add; names that do not mean what they say."""

import numpy as np
import pytest
import tensorflow as tf

from flexseg.errors import UserError
from flexseg.objectives import Metric, metric_named, metric_names, register_metric

B, H, W = 3, 14, 13
HEADS = {1: 0, 2: 0, 6: 5}  # channels: background


def toy(channels, *, seed=0, ignored=0.2, examples=B, dtype=np.float64):
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=2.0, size=(examples, H, W, channels)).astype(dtype)
    mask = rng.integers(0, max(2, channels), size=(examples, H, W, 1)).astype(np.uint8)
    mask[rng.random(mask.shape) < ignored] = 255
    return logits, mask


def metrics_for(channels):
    return [name for name in metric_names() if channels > 1 or name != "categorical_accuracy"]


def build(name, channels):
    return metric_named(name, num_classes=channels, background=HEADS[channels])


def score(name, logits, mask, weight=None, background=0):
    metric = metric_named(name, num_classes=logits.shape[-1], background=background)
    return float(metric.value(metric.sums(logits, mask, tf.ones([len(logits)]) if weight is None else weight)))


def flat(logits, mask):
    channels, counted = logits.shape[-1], mask[..., 0] != 255
    if channels == 1:
        p = 1 / (1 + np.exp(-logits))
    else:
        e = np.exp(logits - logits.max(-1, keepdims=True))
        p = e / e.sum(-1, keepdims=True)
    one_hot = np.eye(max(2, channels))[mask[..., 0][counted]]
    return (one_hot if channels > 1 else one_hot[:, 1:]), p[counted]


def by_hand(name, logits, mask, background):
    y, p = flat(logits, mask)
    examples = [(logits[b : b + 1], mask[b : b + 1]) for b in range(len(logits)) if (mask[b] != 255).any()]
    both = (y * p).sum()

    def hard_dice(example):
        y, p = flat(*example)
        predicted = p.argmax(-1) if p.shape[1] > 1 else (p[:, 0] > 0.5) * 1
        true = y.argmax(-1) if p.shape[1] > 1 else y[:, 0]
        values = []
        for c in range(max(2, p.shape[1])):
            t, q = true == c, predicted == c
            if c != background and (t.any() or q.any()):
                values.append(2 * (t & q).sum() / (t.sum() + q.sum()))
        return np.mean(values) if values else None

    return {
        "dice_coef": lambda: (2 * both + 1) / (y.sum() + p.sum() + 1),
        "iou_coef": lambda: both / (y + p - y * p).sum(),
        "jacard_similarity": lambda: both / (y + p - y * p).sum(),
        "sensitivity": lambda: np.round(y * p).sum() / (y.sum() + 1e-7),
        "specificity": lambda: np.round((1 - y) * (1 - p)).sum() / ((1 - y).sum() + 1e-7),
        "dice_coef_multiclass": lambda: np.mean([by_hand("dice_coef", *example, background) for example in examples]),
        "binary_accuracy": lambda: np.mean((p > 0.5) == (y == 1)),
        "categorical_accuracy": lambda: np.mean(p.argmax(-1) == y.argmax(-1)),
        "mean_foreground_dice": lambda: np.mean([value for value in map(hard_dice, examples) if value is not None]),
    }[name]()


@pytest.mark.parametrize("channels", HEADS)
def test_every_metric_has_the_value_worked_by_hand(channels):
    logits, mask = toy(channels)
    for name in metrics_for(channels):
        assert score(name, logits, mask, background=HEADS[channels]) == pytest.approx(by_hand(name, logits, mask, HEADS[channels]), rel=1e-5), name


def test_the_metrics_hold_their_golden_values():
    # Four pixels, p = .75 .75 .25 .25, truth 1 0 1 0: overlap 1, truth 2, prediction 2.
    logits = np.log(3.0) * np.array([1, 1, -1, -1.0]).reshape(1, 2, 2, 1)
    mask = np.array([1, 0, 1, 0], np.uint8).reshape(1, 2, 2, 1)
    for name, expected in {
        "dice_coef": 3 / 5, "iou_coef": 1 / 3, "jacard_similarity": 1 / 3, "sensitivity": 1 / 2, "specificity": 1 / 2, "dice_coef_multiclass": 3 / 5,
        "binary_accuracy": 1 / 2, "mean_foreground_dice": 1 / 2,
    }.items():  # fmt: skip
        assert score(name, logits, mask) == pytest.approx(expected, abs=1e-6), name


@pytest.mark.parametrize("channels", HEADS)
def test_sums_add_over_batches_and_padding_and_ignored_examples_add_nothing(channels):
    logits, mask = toy(channels, examples=5)
    mask[3] = 255
    weight = np.array([1, 1, 1, 1, 0], np.float32)
    for name in metrics_for(channels):
        metric = build(name, channels)
        parts = [metric.sums(logits[part], mask[part], weight[part]) for part in (slice(0, 2), slice(2, 5))]
        assert parts[0].shape == (metric.size,) and parts[0].dtype == tf.float32
        expected = by_hand(name, logits[:3], mask[:3], HEADS[channels])
        assert float(metric.value(parts[0] + parts[1])) == pytest.approx(expected, rel=1e-5), name


@pytest.mark.parametrize("channels", HEADS)
def test_xla_gives_the_eager_values(channels):
    logits, mask = toy(channels, dtype=np.float32)
    metrics = [build(name, channels) for name in metrics_for(channels)]

    def everything(logits, mask):
        sums = [metric.sums(logits, mask, tf.ones([B])) for metric in metrics]
        return sums, [metric.value(s) for metric, s in zip(metrics, sums, strict=True)]

    eager, compiled = everything(logits, mask), tf.function(everything, jit_compile=True)(tf.constant(logits), tf.constant(mask))
    for a, b in zip(tf.nest.flatten(eager), tf.nest.flatten(compiled), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


def test_half_precision_logits_of_512_x_512_do_not_overflow():
    logits = tf.fill([2, 512, 512, 2], tf.constant(3.0, tf.float16)) * tf.constant([1.0, -1.0], tf.float16)
    mask = np.zeros((2, 512, 512, 1), np.uint8)
    for name in metrics_for(2):
        assert np.isfinite(score(name, logits, mask, background=None)), name
    assert score("dice_coef", logits, mask) == pytest.approx(1 / (1 + np.exp(-6)), abs=1e-4)


def test_dice_coef_multiclass_is_the_soft_pixel_accuracy():
    # The published metric (REFERENCE_SYSTEM 5.A.3): with one-hot truth and softmax, T + P = 2 H W whatever is predicted.
    rng = np.random.default_rng(3)
    logits = rng.normal(scale=2.0, size=(1, 256, 256, 6)).astype(np.float32)
    mask = rng.integers(0, 6, size=(1, 256, 256, 1)).astype(np.uint8)
    y, p = flat(logits, mask)
    assert score("dice_coef_multiclass", logits, mask) == pytest.approx((y * p).sum(-1).mean(), abs=1e-4)
    assert "no Dice" in build("dice_coef_multiclass", 6).note and build("dice_coef_multiclass", 1).note == ""


def test_calling_everything_background_scores_high_on_the_reference_s_metric_and_zero_on_dice():
    mask = np.zeros((1, 500, 500, 1), np.uint8)
    mask.reshape(-1)[: round(0.136 * 500 * 500)] = 1  # TNBC's share of foreground
    logits = np.zeros((1, 500, 500, 2), np.float32) + np.float32([30, -30])
    assert score("dice_coef_multiclass", logits, mask) == pytest.approx(0.864, abs=1e-4)
    assert score("categorical_accuracy", logits, mask) == pytest.approx(0.864, abs=1e-4)
    assert score("mean_foreground_dice", logits, mask) == 0


def test_iou_of_empty_truth_and_empty_prediction_is_one():
    logits, mask = np.full((1, 4, 4, 1), -2000.0, np.float32), np.zeros((1, 4, 4, 1), np.uint8)
    assert score("iou_coef", logits, mask) == 1 and score("jacard_similarity", logits, mask) == 1


def hard(ids, channels=3):
    return np.where(np.eye(channels)[ids] == 1, 5.0, -5.0).astype(np.float32)


def test_mean_foreground_dice_leaves_out_absent_classes_and_punishes_invented_ones():
    truth, prediction = np.zeros((4, 2, 4), np.uint8), np.zeros((4, 2, 4), np.uint8)
    truth[0, 0], prediction[0, 0, :2] = 1, 1  # class 1: 2 * 2 / (4 + 2); class 2 nowhere: left out
    truth[1, 0], prediction[1, 0], prediction[1, 1, 0] = 1, 1, 2  # class 1 right, class 2 invented: (1 + 0) / 2
    # example 2: nothing there, nothing predicted: does not enter
    prediction[3] = 1  # all of it invented: 0
    assert score("mean_foreground_dice", hard(prediction), truth[..., None]) == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)


def test_mean_foreground_dice_of_nothing_is_no_number():
    empty = np.zeros((2, 3, 3), np.uint8)
    assert np.isnan(score("mean_foreground_dice", hard(empty), empty[..., None]))


def test_without_a_background_class_every_class_counts():
    truth, prediction = np.zeros((1, 2, 4), np.uint8), np.zeros((1, 2, 4), np.uint8)
    truth[0, 0], prediction[0, 0, :2] = 1, 1  # class 0: 2 * 4 / (4 + 6), class 1: 2 * 2 / (4 + 2)
    assert score("mean_foreground_dice", hard(prediction), truth[..., None], background=None) == pytest.approx((0.8 + 2 / 3) / 2)
    assert score("mean_foreground_dice", hard(prediction), truth[..., None], background=1) == pytest.approx(0.8)


def test_only_batch_flattened_metrics_are_marked_batch_dependent_and_they_are():
    logits, mask = toy(1)
    for name in metrics_for(1):
        whole = score(name, logits, mask)
        mean = np.mean([score(name, logits[b : b + 1], mask[b : b + 1]) for b in range(B)])
        if build(name, 1).batch_dependent:
            assert whole != pytest.approx(mean, rel=1e-6), name
    assert {name for name in metrics_for(6) if build(name, 6).batch_dependent} == {
        "dice_coef", "iou_coef", "jacard_similarity", "sensitivity", "specificity",
    }  # fmt: skip


def test_accuracies_are_keras_s():
    for channels in HEADS:
        logits, mask = toy(channels, ignored=0, dtype=np.float32)
        p = tf.sigmoid(logits) if channels == 1 else tf.nn.softmax(logits)
        truth = (mask == 1) * 1.0 if channels == 1 else np.eye(channels)[mask[..., 0]]
        for name in set(metrics_for(channels)) & {"binary_accuracy", "categorical_accuracy"}:
            expected = np.mean(getattr(tf.keras.metrics, name)(truth, p))
            assert score(name, logits, mask, background=HEADS[channels]) == pytest.approx(expected, rel=1e-6)


def test_unknown_and_unfit_names_are_refused():
    with pytest.raises(UserError, match="one of binary_accuracy, .*'dice_coeff'.*Did you mean 'dice_coef'"):
        build("dice_coeff", 1)
    with pytest.raises(UserError, match="binary_accuracy"):
        build("categorical_accuracy", 1)


def test_a_metric_of_ones_own_is_found_by_name_and_may_not_take_a_name():
    def counted_pixels(head):
        return Metric(name="counted_pixels", size=1, value=lambda s: s[0], example_sums=lambda pixels: tf.reduce_sum(pixels.valid, axis=[1, 2]))

    register_metric(counted_pixels)
    try:
        logits, mask = toy(2)
        assert score("counted_pixels", logits, mask) == (mask != 255).sum()
        with pytest.raises(UserError, match="no other metric has"):
            register_metric(counted_pixels)
    finally:
        from flexseg.objectives import metrics

        del metrics._BUILDERS["counted_pixels"]
