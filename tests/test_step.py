"""The training step: two replicas, one device and plain Keras give the same weights; a step that is not finite leaves nothing behind.

In float64, where correct variants agree to rounding (shared/FACTS.md, items 4 and 33); in float32 Adam amplifies the rounding to 2e-4.
"""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from flexseg.data.preprocessing import Preprocessing
from flexseg.data.settings import InputSettings
from flexseg.distribution.ema import ExponentialMovingAverage
from flexseg.distribution.loss_scale import INITIAL, LossScale
from flexseg.distribution.replicas import Replicas
from flexseg.distribution.step import EvaluationStep, TrainStep
from flexseg.distribution.strategies import open_replicas
from flexseg.models.flex_unet import flex_unet
from flexseg.models.pretrained import encoder_of
from flexseg.objectives.losses import loss_named
from flexseg.objectives.objective import Objective
from flexseg.objectives.step_metrics import StepMetrics
from flexseg.training.forward_backward import make_forward_backward
from flexseg.training.optimizers import OptimizerSettings
from flexseg.training.precision import precision_scope

_random = np.random.default_rng(0)
IMAGES = _random.uniform(0, 255, (8, 32, 32, 3))
MASKS = (IMAGES.mean(-1, keepdims=True) > 128).astype(np.uint8)
MASKS[0, :8] = 255  # ignored pixels belong to a correct mean over examples
WEIGHTS = np.array([1.0, 0.5, 2.0, 0.0, 1.0, 1.0, 0.25, 0.0])
# Keras rounds its momentum and betas to float32, also under float64: fractions of two are the same in both.
MOMENTUM, BETAS = 0.875, {"beta_1": 0.875, "beta_2": 1 - 2**-9}
SGD = OptimizerSettings(name="SGD", learning_rate=0.1, momentum=MOMENTUM)
ADAM = OptimizerSettings(name="Adam", learning_rate=1e-2, **BETAS)


def unet(*, size=32, num_classes=2, **options):
    keras.utils.set_random_seed(0)
    options = {"base_filters": 4, "num_layers": 2, "dropout_rate": 0.0, "normalization": "none", "group_count": 2} | options
    return flex_unet(image_size=(size, size), image_channels=3, num_classes=num_classes, **options)


@dataclasses.dataclass
class Rig:
    """A step with everything it moves."""

    replicas: Replicas
    model: keras.Model
    optimizer: keras.optimizers.Optimizer
    scale: LossScale
    ema: ExponentialMovingAverage | None
    step: TrainStep
    images: np.ndarray
    masks: np.ndarray

    def run(self, number, images=None, *, rate, weights=WEIGHTS):
        kind = self.model.inputs[0].dtype
        batch = {"image": (self.images if images is None else images).astype(kind), "mask": self.masks, "weight": weights.astype(kind)}
        return self.step(self.replicas.shard(batch), global_step=number, learning_rate=rate, total_weight=float(weights.sum()))

    def everything(self, replica=0):
        """Every variable of model and optimizer, as one replica holds it."""
        return [self.replicas.local(v.value)[replica].numpy() for v in [*self.model.variables, *self.optimizer.variables]]


def rig(
    count,
    settings,
    *,
    policy="float64",
    xla=False,
    loss="ce_dice",
    reduction="example",
    num_classes=2,
    growth_steps=2000,
    images=IMAGES,
    masks=MASKS,
    accumulation_steps=1,
    build=unet,
    **options,
) -> Rig:
    """To be called, and used, inside the policy's `precision_scope`."""
    replicas = open_replicas(global_batch_size=len(images), replicas=1, logical_cpus=count if count > 1 else 0)
    with replicas.scope():
        model = build(size=images.shape[1], num_classes=num_classes, **options)
        optimizer = settings.build()
        optimizer.build(model.trainable_variables)
        scale = LossScale(dynamic=policy == "mixed_float16", growth_steps=growth_steps, dtype="float64" if policy == "float64" else "float32")
        ema = ExponentialMovingAverage(replicas, model, momentum=settings.ema_momentum) if settings.ema_momentum else None
    if ema:
        ema.restart()
    encoder = encoder_of(model) if settings.singles_out_encoder else None
    own_rate = [index for index, v in enumerate(model.trainable_variables) if encoder and any(v is own for own in encoder.trainable_variables)]
    bound = Objective(loss=loss, reduction=reduction).bind(num_classes=num_classes, background=0, outputs=len(keras.tree.flatten(model.output)))
    step_metrics = StepMetrics(loss=bound, reduction=reduction, metrics=[])
    step = TrainStep(
        replicas, model, optimizer, scale,
        make_forward_backward(
            model, step_metrics, preprocessing=Preprocessing(InputSettings()), replicas=count, accumulation_steps=accumulation_steps
        ),
        clip=settings.clip(), weight_decay=settings.decay, ema=ema, encoder_variables=own_rate, encoder_learning_rate=settings.encoder_learning_rate, seed=7, xla=xla,
    )  # fmt: skip
    return Rig(replicas, model, optimizer, scale, ema, step, images, masks)


def trained(count, settings, *, steps=5, **options):
    """(weights after some steps, the loss of each step)."""
    with precision_scope("float64"):
        made = rig(count, settings, **options)
        outcomes = [made.run(number, rate=settings.learning_rate) for number in range(steps)]
        losses = [float(o.values[0] / o.values[1]) for o in outcomes]
        assert all(bool(o.applied) for o in outcomes)
        return [made.replicas.read(v) for v in made.model.trainable_variables], losses


def trained_by_keras(optimizer, *, steps=5, **options):
    """The same with `optimizer.apply` on the whole batch; the first entry holds the weights it began with."""
    with precision_scope("float64"):
        model, loss = unet(**options), loss_named("ce_dice", num_classes=2, background=0)
        start, losses = [v.numpy() for v in model.trainable_variables], []
        for _ in range(steps):
            with tf.GradientTape() as tape:
                value = tf.reduce_sum(WEIGHTS * loss.example_loss(model(IMAGES, training=True), MASKS)) / WEIGHTS.sum()
            optimizer.apply(tape.gradient(value, model.trainable_variables), model.trainable_variables)
            losses.append(float(value))
        return start, [v.numpy() for v in model.trainable_variables], losses


def largest_difference(some, others):
    return max(np.abs(a - b).max() for a, b in zip(some, others, strict=True))


COMBINATIONS = [  # every pair of settings
    ("SGD", "none", True), ("Adam", "none", False), pytest.param("SGD", "group", False, marks=pytest.mark.slow),
    pytest.param("Adam", "group", True, marks=pytest.mark.slow),
]  # fmt: skip


@pytest.mark.parametrize(("name", "normalization", "xla"), COMBINATIONS)
def test_two_replicas_one_device_and_plain_keras_give_the_same_weights(name, normalization, xla):
    settings, steps = {"SGD": (SGD, 10), "Adam": (ADAM, 5)}[name]
    with precision_scope("float64"):
        plain = keras.optimizers.SGD(0.1, momentum=MOMENTUM) if name == "SGD" else keras.optimizers.Adam(1e-2, **BETAS)
    start, expected, losses = trained_by_keras(plain, steps=steps, normalization=normalization)
    assert all(np.abs(a - b).max() >= 1e-3 for a, b in zip(start, expected, strict=True)), "weights that do not move prove nothing"
    for count in (1, 2):
        weights, reported = trained(count, settings, steps=steps, normalization=normalization, xla=xla)
        assert largest_difference(weights, expected) <= 1e-10, f"{count} replicas"
        np.testing.assert_allclose(reported, losses, rtol=1e-10)


@pytest.mark.parametrize(("loss", "num_classes"), [("dice_loss", 1), pytest.param("ce_dice", 2, marks=pytest.mark.slow)])
def test_a_loss_of_the_whole_global_batch_is_the_same_on_two_replicas(loss, num_classes):
    options = {"loss": loss, "reduction": "batch", "num_classes": num_classes}
    one, losses = trained(1, SGD, **options)
    two, reported = trained(2, SGD, **options)
    by_example, _ = trained(1, SGD, **{**options, "reduction": "example"})
    assert largest_difference(two, one) <= 1e-10
    assert largest_difference(by_example, one) >= 1e-4, "the two reductions are two losses"
    np.testing.assert_allclose(reported, losses, rtol=1e-10)


@pytest.mark.slow
def test_on_one_device_a_loss_of_the_whole_batch_compiles():
    options = {"loss": "dice_loss", "reduction": "batch", "num_classes": 1}
    assert largest_difference(trained(1, SGD, xla=True, **options)[0], trained(1, SGD, **options)[0]) <= 1e-10


def test_decoupled_weight_decay_is_that_of_keras_adamw():
    with precision_scope("float64"):
        plain, undecayed = keras.optimizers.AdamW(1e-2, weight_decay=0.1, **BETAS), keras.optimizers.Adam(1e-2, **BETAS)
    _, expected, _ = trained_by_keras(plain)
    _, without, _ = trained_by_keras(undecayed)
    settings = dataclasses.replace(ADAM, name="AdamW", weight_decay=0.1)
    two, _ = trained(2, settings)
    assert largest_difference(two, expected) <= 4e-10  # Keras rounds its decay to float32
    assert largest_difference(expected, without) >= 1e-4


@pytest.mark.parametrize(("name", "bound"), [("clipvalue", 1e-3), ("clipnorm", 1e-2), ("global_clipnorm", 2e-2)])
def test_gradients_are_clipped_after_the_reduction(name, bound):
    """Keras clips each replica's share, so that its result depends on the number of replicas (FACTS.md, item 2)."""
    with precision_scope("float64"):
        plain = keras.optimizers.SGD(0.1, momentum=MOMENTUM, **{name: bound})
    start, expected, _ = trained_by_keras(plain, steps=2)
    _, unclipped, _ = trained_by_keras(keras.optimizers.SGD(0.1, momentum=MOMENTUM), steps=2)
    two, _ = trained(2, dataclasses.replace(SGD, **{name: bound}), steps=2)
    assert largest_difference(two, expected) <= 1e-10
    assert largest_difference(expected, unclipped) >= 1e-3, "the bound must be felt"


def test_moving_statistics_are_the_mean_of_the_replicas_and_equal_on_all():
    with precision_scope("float64"):
        made = rig(2, SGD, normalization="batch")
        halves = []
        for half in (slice(0, 4), slice(4, 8)):  # what each replica's own BatchNormalization makes of its share
            model = unet(normalization="batch")
            model(IMAGES[half], training=True)
            halves.append([v.numpy() for v in model.non_trainable_variables])
        made.run(0, rate=0.1)
        for first, second, variable in zip(*halves, made.model.non_trainable_variables, strict=True):
            on_each = [value.numpy() for value in made.replicas.local(variable.value)]
            np.testing.assert_allclose(on_each[0], (first + second) / 2, rtol=1e-12)
            np.testing.assert_array_equal(*on_each)


@pytest.mark.parametrize("xla", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_nan_on_either_replica_changes_no_variable_and_halves_the_loss_scale(xla):
    with precision_scope("mixed_float16"):
        made = rig(2, ADAM, policy="mixed_float16", normalization="batch", dropout_rate=0.1, xla=xla)
        assert bool(made.run(0, rate=1e-2).applied)
        before, scale = made.everything(), INITIAL
        for number, place in enumerate((1, 6), start=1):  # an image of replica 0, then one of replica 1
            images = IMAGES.copy()
            images[place, 3, 3, 0] = np.nan
            assert not bool(made.run(number, images, rate=1e-2).applied)
            scale /= 2
            assert made.replicas.read(made.scale.scale) == scale
            for replica in (0, 1):
                for was, now in zip(before, made.everything(replica), strict=True):
                    np.testing.assert_array_equal(now, was)
        assert bool(made.run(3, rate=1e-2).applied), "training goes on"
        assert all(np.isfinite(v).all() for v in made.everything())
        assert largest_difference(made.everything(), before) > 0
        for one, other in zip(made.everything(0), made.everything(1), strict=True):
            np.testing.assert_array_equal(one, other)


def test_an_overflow_of_the_scaled_loss_is_skipped_until_the_scale_fits():
    with precision_scope("mixed_float16"):
        made = rig(1, ADAM, policy="mixed_float16")
        made.replicas.write(made.scale.scale, np.float32(2.0**24))
        applied = [bool(made.run(number, rate=1e-3).applied) for number in range(16)]
        assert not applied[0] and applied[-1]
        assert made.replicas.read(made.scale.scale) == 2.0 ** (24 - applied.count(False))


def test_the_loss_scale_doubles_after_its_interval_of_applied_steps():
    with precision_scope("mixed_float16"):
        made = rig(2, ADAM, policy="mixed_float16", growth_steps=3)
        bad = np.full_like(IMAGES, np.nan)
        scales = []
        for number, images in enumerate([IMAGES, IMAGES, bad, IMAGES, IMAGES, IMAGES, IMAGES]):
            made.run(number, images, rate=1e-3)
            scales.append(made.replicas.read(made.scale.scale) / INITIAL)
        assert scales == [1, 1, 0.5, 0.5, 0.5, 1, 1], "a skipped step begins the count anew"


def test_in_other_precisions_the_loss_scale_stays_one():
    scale = LossScale(dynamic=False, growth_steps=1)
    scale.applied()
    scale.skipped()
    assert scale.scale.numpy() == 1.0 and scale.good_steps.numpy() == 0


def dropout_step(count):
    """A step over two dropout layers, one of them nested, whose reported values are what each replica's layers let pass."""
    replicas = open_replicas(global_batch_size=2, replicas=1, logical_cpus=count if count > 1 else 0)
    with replicas.scope():
        inputs = keras.Input((16,))
        inner = keras.Input((16,))
        nested = keras.Model(inner, keras.layers.Dropout(0.5)(inner))
        model = keras.Model(inputs, keras.layers.Dense(1)(keras.layers.Concatenate(name="both")([keras.layers.Dropout(0.5)(inputs), nested(inputs)])))
        optimizer = OptimizerSettings(name="SGD", learning_rate=0.1, momentum=0.0).build()
        optimizer.build(model.trainable_variables)
        scale = LossScale(dynamic=False, growth_steps=1)
        probe = keras.Model(inputs, model.get_layer("both").output)
    assert sum(v.path.endswith("seed_generator_state") for v in model.non_trainable_variables) == 2

    def forward_backward(weights, state, batch, scale, total_weight):
        passed, state = probe.stateless_call([], state, batch["image"], training=True)
        values = tf.reshape(batch["slot"][0][:, None] * tf.reshape(passed, [1, -1]), [-1])  # each replica fills its own row
        return tf.concat([[0.0], values], axis=0), [tf.zeros_like(w) for w in weights], state

    step = TrainStep(replicas, model, optimizer, scale, forward_backward, clip=lambda g: g, seed=3, xla=False)
    batch = replicas.shard({"image": np.ones((count, 16), np.float32), "slot": np.eye(count, dtype=np.float32)})
    return lambda number: (
        step(batch, global_step=number, learning_rate=0.1, total_weight=1.0).values.numpy()[1:].reshape(count, 2, 16)
    )  # [replica, layer, unit]


def test_dropout_differs_between_replicas_layers_and_steps_and_repeats_for_a_step():
    draw = dropout_step(2)
    first, second = draw(0), draw(1)
    assert set(np.unique(first)) == {0.0, 2.0}
    masks = [draws[replica, layer].tobytes() for draws in (first, second) for replica in (0, 1) for layer in (0, 1)]
    assert len(set(masks)) == 8
    np.testing.assert_array_equal(draw(0), first)
    np.testing.assert_array_equal(dropout_step(2)(1), second)  # a new process would begin like this: the step alone decides
    np.testing.assert_array_equal(dropout_step(1)(0)[0], first[0])


def test_dropout_leaves_no_state_behind():
    with precision_scope("float64"):
        made = rig(1, SGD, dropout_rate=0.2)
        seeds = [v for v in made.model.non_trainable_variables if v.path.endswith("seed_generator_state")]
        before = [v.numpy() for v in seeds]
        made.run(0, rate=0.1)
        assert seeds and all(np.array_equal(a, v.numpy()) for a, v in zip(before, seeds, strict=True))


@pytest.mark.parametrize("count", [1, 2, 4])  # and collectives over two and over four devices do not meet in one process
def test_an_evaluation_step_sums_over_replicas_and_returns_their_outputs_in_order(count):
    replicas = open_replicas(global_batch_size=4, replicas=1, logical_cpus=count if count > 1 else 0)
    with replicas.scope():
        inputs = keras.Input((1,))
        model = keras.Model(inputs, keras.layers.Dense(1, kernel_initializer="ones")(inputs))

    def forward(weights, state, batch):
        output, _ = model.stateless_call(weights, state, batch["x"], training=False)
        return tf.reduce_sum(output, axis=0), output

    values, outputs = EvaluationStep(replicas, model, forward, xla=count == 2)(replicas.shard({"x": np.arange(4.0, dtype=np.float32)[:, None]}))
    np.testing.assert_array_equal(values, [6.0])
    assert len(outputs) == count
    np.testing.assert_array_equal(np.concatenate([o.numpy() for o in outputs])[:, 0], np.arange(4))
