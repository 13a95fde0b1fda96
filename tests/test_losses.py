"""Losses against formulas worked by hand in NumPy, and the properties that both reductions promise."""

import numpy as np
import pytest
import tensorflow as tf

from flexseg.errors import UserError
from flexseg.objectives import Objective, loss_named, loss_names
from flexseg.objectives.ssim import ssim

B, H, W = 3, 14, 13
HEADS = {1: 0, 2: 0, 6: 5}  # channels: background
NOT_FOR_ONE_LOGIT = ("categorical_crossentropy", "sparse_categorical_crossentropy")
OPTIONS = {"focal": {"focal_gamma": 1.5}, "tversky": {"tversky_alpha": 0.2, "tversky_beta": 0.9, "dice_smooth": 3.0}, "ce_dice": {"dice_smooth": 2.0}}
IDENTITY = tf.identity


def toy(channels, *, seed=0, ignored=0.2, examples=B, dtype=np.float64):
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=2.0, size=(examples, H, W, channels)).astype(dtype)
    mask = rng.integers(0, max(2, channels), size=(examples, H, W, 1)).astype(np.uint8)
    mask[rng.random(mask.shape) < ignored] = 255
    return logits, mask


def losses_for(channels):
    return [name for name in loss_names() if channels > 1 or name not in NOT_FOR_ONE_LOGIT]


def build(name, channels):
    return loss_named(name, num_classes=channels, background=HEADS[channels], **OPTIONS.get(name, {}))


# The formulas, by hand. Each works on any stack of images, so that the batch form is the same formula on all of them.


def probabilities(logits):
    if logits.shape[-1] == 1:
        return 1 / (1 + np.exp(-logits))
    e = np.exp(logits - logits.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def flat(logits, mask):
    """y [P, K], p [P, K] of the pixels that count, and y, p [P, C] by class."""
    channels, counted = logits.shape[-1], mask[..., 0] != 255
    ids, p = mask[..., 0][counted], probabilities(logits)[counted]
    class_y = np.eye(max(2, channels))[ids]
    return (class_y if channels > 1 else class_y[:, 1:]), p, class_y, (p if channels > 1 else np.concatenate([1 - p, p], -1))


def by_hand_ssim(logits, mask):
    """Sliding 11 x 11 Gaussian window, place by place."""
    channels = logits.shape[-1]
    counted = mask != 255
    p = probabilities(logits) * counted
    y = ((mask == 1) if channels == 1 else (mask == np.arange(channels))) * 1.0
    i = np.arange(11) - 5
    window = np.exp(-(i[:, None] ** 2 + i[None] ** 2) / (2 * 1.5**2))
    window /= window.sum()
    scores = []
    for b in range(len(logits)):
        values = []
        for c in range(channels):
            for r in range(H - 10):
                for s in range(W - 10):
                    u, v = y[b, r : r + 11, s : s + 11, c], p[b, r : r + 11, s : s + 11, c]
                    mu, mv = (window * u).sum(), (window * v).sum()
                    su, sv, suv = (window * (u - mu) ** 2).sum(), (window * (v - mv) ** 2).sum(), (window * (u - mu) * (v - mv)).sum()
                    values.append((2 * mu * mv + 1e-4) * (2 * suv + 9e-4) / ((mu**2 + mv**2 + 1e-4) * (su + sv + 9e-4)))
        scores.append(np.mean(values))
    return np.array(scores)


def by_hand(name, logits, mask, background):
    y, p, class_y, class_p = flat(logits, mask)
    foreground = [c for c in range(class_y.shape[1]) if c != background]
    dice = (2 * (y * p).sum() + 1) / (y.sum() + p.sum() + 1)
    iou = (y * p).sum() / (y + p - y * p).sum()
    bce = -(y * np.log(p) + (1 - y) * np.log(1 - p)).mean()
    p_true = (class_y * class_p).sum(-1)
    ce = -np.log(p_true).mean()

    def index(alpha, beta, smooth):
        values = []
        for c in foreground:
            hit = (class_y[:, c] * class_p[:, c]).sum()
            false_positive, false_negative = ((1 - class_y[:, c]) * class_p[:, c]).sum(), (class_y[:, c] * (1 - class_p[:, c])).sum()
            values.append((hit + smooth) / (hit + alpha * false_positive + beta * false_negative + smooth))
        return 1 - np.mean(values)

    def per_example_dice():
        return np.mean([1 - by_hand("dice_loss", logits[b : b + 1], mask[b : b + 1], background) for b in range(len(logits))])

    return {
        "dice_loss": lambda: 1 - dice,
        "iou_loss": lambda: 1 - iou,
        "jacard_loss": lambda: 1 - iou,
        "ssim_loss": lambda: 1 - by_hand_ssim(logits, mask).mean(),
        "bce_dice_loss": lambda: (bce + 1 - dice) / 2,
        "bce_iou_loss": lambda: (bce + 1 - iou) / 2,
        "basnet_hybrid_loss": lambda: (bce + 1 - by_hand_ssim(logits, mask).mean() + 1 - iou) / 3,
        "dice_loss_multiclass": lambda: 1 - per_example_dice(),
        "binary_crossentropy": lambda: bce,
        "categorical_crossentropy": lambda: ce,
        "sparse_categorical_crossentropy": lambda: ce,
        "ce_dice": lambda: ce + index(0.5, 0.5, 1.0),
        "focal": lambda: (-((1 - p_true) ** 1.5) * np.log(p_true)).mean(),
        "tversky": lambda: index(0.2, 0.9, 1.5),
    }[name]()


@pytest.mark.parametrize("channels", HEADS)
def test_every_loss_has_the_value_worked_by_hand_in_both_reductions(channels):
    logits, mask = toy(channels)
    for name in losses_for(channels):
        loss = build(name, channels)
        expected = [by_hand(name, logits[b : b + 1], mask[b : b + 1], HEADS[channels]) for b in range(B)]
        np.testing.assert_allclose(loss.example_loss(logits, mask), expected, rtol=1e-9, err_msg=name)
        whole = loss.batch_loss(logits, mask, tf.ones([B]), IDENTITY)
        np.testing.assert_allclose(whole, by_hand(name, logits, mask, HEADS[channels]), rtol=1e-9, err_msg=name)


def test_the_losses_hold_their_golden_values():
    # One 12 x 12 image, left half foreground, p = 0.75 everywhere (logit log 3): overlap 54, truth 72, prediction 108.
    logits = np.full((1, 12, 12, 1), np.log(3.0))
    mask = np.zeros((1, 12, 12, 1), np.uint8)
    mask[:, :, :6] = 1
    bce, dice, iou = (np.log(4 / 3) + np.log(4)) / 2, 109 / 181, 54 / 126
    for name, expected in {
        "dice_loss": 1 - dice, "iou_loss": 1 - iou, "bce_dice_loss": (bce + 1 - dice) / 2, "bce_iou_loss": (bce + 1 - iou) / 2,
        "ce_dice": bce + 1 - dice, "focal": (0.25**2 * np.log(4 / 3) + 0.75**2 * np.log(4)) / 2, "tversky": 1 - 54.5 / (54.5 + 0.3 * 54 + 0.7 * 18),
    }.items():  # fmt: skip
        assert float(loss_named(name, num_classes=1, background=0).example_loss(logits, mask)[0]) == pytest.approx(expected, abs=1e-12), name


@pytest.mark.parametrize("channels", HEADS)
def test_ignored_pixels_count_nowhere(channels):
    logits, mask = toy(channels)
    other = np.where(mask == 255, 37.0 - 3 * logits, logits)  # other logits, on ignored pixels only
    for name in losses_for(channels):
        loss = build(name, channels)
        np.testing.assert_allclose(loss.example_loss(other, mask), loss.example_loss(logits, mask), rtol=1e-12, err_msg=name)


@pytest.mark.parametrize("channels", HEADS)
def test_an_example_that_is_all_ignored_has_loss_and_gradient_zero_and_changes_no_batch(channels):
    logits, mask = toy(channels)
    mask[1] = 255
    for name in losses_for(channels):
        loss = build(name, channels)
        x = tf.Variable(logits)
        with tf.GradientTape() as tape:
            values = loss.example_loss(x, mask)
        gradient = tape.gradient(tf.convert_to_tensor(values), x).numpy()
        assert values[1] == 0 and np.isfinite(gradient).all() and not gradient[1].any() and gradient[0].any(), name
        whole = loss.batch_loss(logits, mask, tf.ones([B]), IDENTITY)
        np.testing.assert_allclose(whole, loss.batch_loss(logits[[0, 2]], mask[[0, 2]], tf.ones([2]), IDENTITY), rtol=1e-12, err_msg=name)

        with tf.GradientTape() as tape:  # a batch in which nothing counts
            nothing = loss.batch_loss(x, np.full_like(mask, 255), tf.ones([B]), IDENTITY)
        assert nothing == 0 and not tape.gradient(nothing, x).numpy().any(), name


@pytest.mark.parametrize("channels", HEADS)
def test_the_batch_loss_of_two_replicas_is_that_of_the_whole_batch_and_crosses_once(channels):
    logits, mask = toy(channels, examples=4)
    weight = np.array([1, 1, 1, 0], np.float32)
    for name in losses_for(channels):
        loss = build(name, channels)
        halves, calls = [], []
        for half in (slice(0, 2), slice(2, 4)):
            loss.batch_loss(logits[half], mask[half], weight[half], lambda sums, halves=halves: halves.append(sums) or sums)
        assert len(halves) == 2 and halves[0].shape == (loss.size,)
        total = halves[0] + halves[1]
        joined = loss.batch_loss(logits[:2], mask[:2], weight[:2], lambda sums, calls=calls, total=total: calls.append(1) or total)
        assert len(calls) == 1
        np.testing.assert_allclose(joined, loss.batch_loss(logits[:3], mask[:3], tf.ones([3]), IDENTITY), rtol=1e-12, err_msg=name)


@pytest.mark.parametrize("channels", HEADS)
def test_the_example_loss_does_not_depend_on_the_other_examples(channels):
    logits, mask = toy(channels)
    for name in losses_for(channels):
        loss = build(name, channels)
        together = loss.example_loss(logits, mask).numpy()
        alone = [loss.example_loss(logits[b : b + 1], mask[b : b + 1])[0].numpy() for b in range(B)]
        np.testing.assert_allclose(together, alone, rtol=1e-12, err_msg=name)


FEW = ("ce_dice", "focal", "bce_iou_loss", "dice_loss_multiclass")  # each formula once; SSIM takes long to compile


@pytest.mark.parametrize(
    ("channels", "names"),
    [(1, FEW), (6, FEW), (1, ("ssim_loss",))] + [pytest.param(k, losses_for(k), marks=pytest.mark.slow, id=f"{k}-all") for k in HEADS],
)
def test_xla_gives_the_eager_values_and_gradients(channels, names):
    logits, mask = toy(channels, dtype=np.float32)
    losses = [build(name, channels) for name in names]

    def everything(x, mask):
        with tf.GradientTape() as tape:
            tape.watch(x)
            values = [(loss.example_loss(x, mask), loss.batch_loss(x, mask, tf.ones([B]), IDENTITY)) for loss in losses]
            total = tf.add_n([tf.reduce_sum(of_examples) for of_examples, _ in values])
        return values, tape.gradient(total, x)  # one gradient of all: compiling each takes long

    eager = everything(tf.constant(logits), tf.constant(mask))
    compiled = tf.function(everything, jit_compile=True)(tf.constant(logits), tf.constant(mask))
    for a, b in zip(tf.nest.flatten(eager), tf.nest.flatten(compiled), strict=True):
        assert a.dtype == tf.float32
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("channels", HEADS)
@pytest.mark.parametrize("scale", [0.0, 1e3, 1e5])
def test_equal_and_extreme_logits_have_finite_losses_and_gradients(channels, scale):
    logits, mask = toy(channels, dtype=np.float32)
    x = tf.Variable(logits * np.float32(scale))
    for name in losses_for(channels):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(build(name, channels).example_loss(x, mask))
        assert np.isfinite(loss) and np.isfinite(tape.gradient(loss, x)).all(), name


def test_the_gradients_are_those_of_finite_differences():
    for channels in HEADS:
        logits, mask = toy(channels, examples=1)
        direction = np.random.default_rng(5).normal(size=logits.shape)
        for name in losses_for(channels):
            loss, x = build(name, channels), tf.Variable(logits)
            with tf.GradientTape() as tape:
                value = loss.example_loss(x, mask)[0]
            slope = np.sum(tape.gradient(value, x) * direction)
            ahead, behind = (float(loss.example_loss(logits + step * direction, mask)[0]) for step in (1e-5, -1e-5))
            assert slope == pytest.approx((ahead - behind) / 2e-5, rel=1e-5, abs=1e-9), name


def test_cross_entropy_has_a_gradient_where_a_clipped_one_has_none():
    logits, mask = tf.Variable([[[[-60.0]]]]), np.ones((1, 1, 1, 1), np.uint8)
    with tf.GradientTape() as tape:
        value = loss_named("binary_crossentropy", num_classes=1, background=0).example_loss(logits, mask)[0]
    assert float(value) == pytest.approx(60.0) and float(tape.gradient(value, logits)[0, 0, 0, 0]) == pytest.approx(-1.0)  # Keras: 16.1 and 0


def test_cross_entropies_are_keras_s_up_to_its_clip():
    for channels in HEADS:
        logits, mask = toy(channels, ignored=0, dtype=np.float32)
        p = probabilities(logits)
        truth = (mask == 1) * 1.0 if channels == 1 else np.eye(channels)[mask[..., 0]]
        for name in losses_for(channels):
            if name.endswith("crossentropy"):
                target = mask[..., 0] if name.startswith("sparse") else truth
                keras_value = tf.reduce_mean(getattr(tf.keras.losses, name)(target, p), axis=[1, 2])
                np.testing.assert_allclose(build(name, channels).example_loss(logits, mask), keras_value, rtol=1e-4, err_msg=name)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_logits_of_512_x_512_do_not_overflow(dtype):
    x = np.linspace(-4, 4, 512 * 512).reshape(1, 512, 512, 1)
    mask = np.ones((1, 512, 512, 1), np.uint8)
    logits = tf.cast(x, dtype)
    for name in losses_for(1):
        loss = build(name, 1)
        value = loss.example_loss(logits, mask)
        assert value.dtype == tf.float32
        np.testing.assert_allclose(value, loss.example_loss(tf.cast(logits, tf.float64), mask), rtol=1e-4, err_msg=name)


def test_ssim_is_tensorflow_s_in_float64_too():
    a, b = (np.random.default_rng(seed).random((2, 20, 15, 3)) for seed in (1, 2))
    np.testing.assert_allclose(ssim(tf.constant(a), tf.constant(b)), tf.image.ssim(a, b, max_val=1), atol=1e-6)
    assert ssim(tf.constant(a), tf.constant(b)).dtype == tf.float64
    with pytest.raises(UserError, match="11 x 11.*found 10 x 15"):
        ssim(tf.constant(a[:, :10]), tf.constant(b[:, :10]))


def test_iou_loss_is_zero_where_truth_and_prediction_are_empty():
    logits, mask = np.full((1, 4, 4, 1), -2000.0, np.float32), np.zeros((1, 4, 4, 1), np.uint8)  # sigmoid underflows to 0
    assert float(loss_named("iou_loss", num_classes=1, background=0).example_loss(logits, mask)[0]) == 0


def test_foreground_dice_leaves_the_named_background_out_and_only_that():
    logits, mask = toy(6, examples=1)
    per_class = []
    y, p, *_ = flat(logits, mask)
    for c in range(6):
        per_class.append((2 * (y[:, c] * p[:, c]).sum() + 1) / (y[:, c].sum() + p[:, c].sum() + 1))
    ce = by_hand("categorical_crossentropy", logits, mask, None)
    for background, kept in ((0, [1, 2, 3, 4, 5]), (3, [0, 1, 2, 4, 5]), (None, [0, 1, 2, 3, 4, 5])):
        value = loss_named("ce_dice", num_classes=6, background=background).example_loss(logits, mask)[0]
        assert float(value) == pytest.approx(ce + 1 - np.mean(np.array(per_class)[kept]), rel=1e-9)


def test_the_sigmoid_form_equals_two_softmax_channels_whose_difference_is_its_logit():
    logits, mask = toy(1)
    two = np.concatenate([np.zeros_like(logits), logits], -1)
    for name, options in (("ce_dice", {"class_weights": (0.5, 2.0)}), ("focal", {"class_weights": (0.5, 2.0)}), ("tversky", {}), ("ce_dice", {})):
        for background in (0, 1, None):
            one_logit = loss_named(name, num_classes=1, background=background, **options).example_loss(logits, mask)
            softmax = loss_named(name, num_classes=2, background=background, **options).example_loss(two, mask)
            np.testing.assert_allclose(one_logit, softmax, rtol=1e-10, err_msg=name)


def test_class_weights_weigh_pixels_and_the_mean_over_classes():
    logits, mask = toy(6, examples=1)
    weights = (0.5, 2.0, 0.0, 1.0, 3.0, 0.25)
    y, p, *_ = flat(logits, mask)
    pixel_weight, p_true = (y * weights).sum(-1), (y * p).sum(-1)
    ce = (pixel_weight * -np.log(p_true)).mean()
    bce = (pixel_weight * -(y * np.log(p) + (1 - y) * np.log(1 - p)).mean(-1)).mean()
    focal = (pixel_weight * -((1 - p_true) ** 2) * np.log(p_true)).mean()
    dice = (2 * (y * p).sum(0) + 1) / (y.sum(0) + p.sum(0) + 1)
    region = 1 - (np.array(weights) * dice)[:5].sum() / sum(weights[:5])
    for name, expected in {"categorical_crossentropy": ce, "binary_crossentropy": bce, "focal": focal, "ce_dice": ce + region}.items():
        loss = Objective(loss=name, class_weights=weights).bind(num_classes=6, background=5)
        assert float(loss.example_loss(logits, mask)[0]) == pytest.approx(expected, rel=1e-9), name
    loss = Objective(loss="tversky", class_weights=weights, tversky_alpha=0.5, tversky_beta=0.5).bind(num_classes=6, background=5)
    assert float(loss.example_loss(logits, mask)[0]) == pytest.approx(region, rel=1e-9)


def test_focal_with_gamma_zero_is_cross_entropy_and_more_gamma_forgives_easy_pixels():
    logits, mask = toy(6)
    values = [
        loss_named("focal", num_classes=6, background=5, focal_gamma=gamma).example_loss(logits, mask).numpy().mean() for gamma in (0.0, 0.5, 2.0)
    ]
    assert values[0] == pytest.approx(by_hand("categorical_crossentropy", logits, mask, 5), rel=2e-2)  # mean of means against mean of pixels
    np.testing.assert_allclose(
        loss_named("focal", num_classes=6, background=5, focal_gamma=0.0).example_loss(logits, mask),
        loss_named("categorical_crossentropy", num_classes=6, background=5).example_loss(logits, mask),
    )
    assert values[0] > values[1] > values[2]
