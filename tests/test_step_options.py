"""What a step can be asked for beside: accumulation, averages, recomputation, several steps a call, another way for the gradients."""

import functools
from pathlib import Path

import keras
import numpy as np
import processes
import pytest
import tensorflow as tf
import toy_runs
from test_replicas import BATCH, IMAGES, KEEP_GRADIENT, MASKS, UNET, WEIGHTS, assert_alike, collectives, reduced_gradients
from test_step import ADAM, SGD, rig
from toys import slow_unless

from flexseg.data.preprocessing import Preprocessing
from flexseg.data.settings import InputSettings
from flexseg.distribution.communication import Communication
from flexseg.distribution.step import TrainStep
from flexseg.errors import UserError
from flexseg.models.flex_unet import flex_unet
from flexseg.objectives.losses import loss_named
from flexseg.objectives.step_metrics import StepMetrics
from flexseg.training.forward_backward import make_forward_backward
from flexseg.training.optimizers import OptimizerSettings
from flexseg.training.precision import precision_scope


@pytest.mark.parametrize(
    ("normalization", "count", "accumulation_steps", "xla"),
    [slow_unless(some in {("group", 2, 2, False), ("none", 1, 4, False)}, *some) for some in (
        ("group", 1, 8, False), ("group", 2, 2, False), ("group", 2, 2, True), ("group", 4, 2, False), ("none", 1, 4, False), ("none", 2, 4, True),
    )],
)  # fmt: skip
def test_micro_batches_have_the_gradient_of_the_whole_batch(normalization, count, accumulation_steps, xla):
    found = reduced_gradients(count, "float64", normalization=normalization, accumulation_steps=accumulation_steps, xla=xla)
    assert_alike(found, reduced_gradients(1, "float64", normalization=normalization), 1e-10)


def passed_by_dropout(weight, accumulation_steps=2):
    """The loss of two equal images of which `weight` lets one count, through a layer of dropout."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((16, 16, 3), batch_size=None)
    model = keras.Model(inputs, keras.layers.Conv2D(1, 1)(keras.layers.Dropout(0.5)(inputs)))
    step_metrics = StepMetrics(loss=loss_named("binary_crossentropy", num_classes=1, background=0), reduction="example", metrics=[])
    preprocessing = Preprocessing(InputSettings())
    forward_backward = make_forward_backward(model, step_metrics, preprocessing=preprocessing, replicas=1, accumulation_steps=accumulation_steps)
    image = tf.random.stateless_uniform([1, 16, 16, 3], [1, 2])
    batch = {"image": tf.repeat(image, 2, axis=0), "mask": tf.zeros([2, 16, 16, 1], tf.uint8), "weight": tf.constant(weight)}
    state = [tf.constant([5, 6], tf.int64) for _ in model.non_trainable_variables]
    values, _, after = forward_backward([v.value for v in model.trainable_variables], state, batch, tf.constant(1.0), tf.constant(1.0))
    np.testing.assert_array_equal(after[0], state[0])
    return float(values[0])


def test_every_micro_batch_drops_out_its_own_and_the_same_in_every_run():
    first, second = passed_by_dropout([1.0, 0.0]), passed_by_dropout([0.0, 1.0])
    assert first != second and passed_by_dropout([1.0, 0.0]) == first


def test_moving_statistics_pass_from_one_micro_batch_to_the_next():
    with precision_scope("float64"):
        made = rig(1, SGD, accumulation_steps=2, normalization="batch", **UNET)
        state = [v.numpy() for v in made.model.non_trainable_variables]
        weights = [v.value for v in made.model.trainable_variables]
        for half in (slice(0, BATCH // 2), slice(BATCH // 2, BATCH)):
            _, state = made.model.stateless_call(weights, state, IMAGES[half], training=True)
        made.run(0, rate=0.1, weights=WEIGHTS)
        assert len(state) > 8
        for found, expected in zip(made.model.non_trainable_variables, state, strict=True):
            np.testing.assert_allclose(found.numpy(), expected, rtol=1e-10)


@pytest.mark.parametrize(("count", "xla"), [(2, False), slow_unless(False, 1, True)])
def test_the_ema_is_that_of_tensorflow_and_a_skipped_step_leaves_it(count, xla):
    with precision_scope("float64"):
        made = rig(count, OptimizerSettings(learning_rate=0.01, ema_momentum=0.35), xla=xla, **UNET)
        weights = [tf.Variable(made.replicas.read(v)) for v in made.model.trainable_variables]
        for number in range(5):
            made.run(number, rate=0.01, weights=WEIGHTS)
            if number == 0:
                theirs = tf.train.ExponentialMovingAverage(0.35, num_updates=tf.constant(1.0, tf.float64))
                theirs.apply(weights)
            for mine, plain in zip(made.model.trainable_variables, weights, strict=True):
                plain.assign(made.replicas.read(mine))
            theirs._num_updates = tf.constant(number + 1.0, tf.float64)
            theirs.apply(weights)
        expected = [theirs.average(v).numpy() for v in weights]
        assert any(np.abs(mine - plain.numpy()).max() > 1e-3 for mine, plain in zip(expected, weights, strict=True)), "an average that lags proves it"
        bad = IMAGES.copy()
        bad[0, 0, 0] = np.nan
        assert not bool(made.run(5, bad, rate=0.01, weights=WEIGHTS).applied)
        for replica in range(count):
            for average, value in zip(made.ema.variables, expected, strict=True):
                held = made.replicas.local(average)[replica].numpy()
                np.testing.assert_allclose(held, value, rtol=1e-6, atol=1e-9)  # theirs computes the momentum in float32


def test_the_ema_stands_in_for_the_weights_and_gives_way_again_whatever_happens():
    with precision_scope("float32"):
        made = rig(2, OptimizerSettings(learning_rate=0.01, ema_momentum=0.9), policy="float32", **UNET)
        made.run(0, rate=0.01, weights=WEIGHTS)

        def held():
            kinds = (made.model.trainable_variables, made.ema.variables)
            return [
                [[part.numpy() for part in made.replicas.local(getattr(v, "value", v) if kind is kinds[0] else v)] for v in kind] for kind in kinds
            ]

        weights, averages = held()
        with pytest.raises(ZeroDivisionError), made.ema.in_place():
            np.testing.assert_equal(held(), [averages, weights])
            raise ZeroDivisionError
        np.testing.assert_equal(held(), [weights, averages])
        assert np.abs(weights[0][0] - averages[0][0]).max() > 0


@functools.cache
def after_a_step(count, **options):
    """(gradients by weight, the other variables) after one step with dropout."""
    with precision_scope("float64"):
        made = rig(count, KEEP_GRADIENT, dropout_rate=0.2, **UNET, **options)
        assert bool(made.run(0, rate=1.0, weights=WEIGHTS).applied)
        gradients = {v.path: -made.replicas.read(m) for v, m in zip(made.model.trainable_variables, made.optimizer.momentums, strict=True)}
        return gradients, [made.replicas.read(v) for v in made.model.non_trainable_variables]


@pytest.mark.parametrize(
    ("normalization", "count", "xla"),
    [slow_unless(c == 1 and n == "batch", n, c, x) for n, c, x in (("batch", 2, True), ("batch", 1, False), ("group", 1, True), ("group", 4, False))],
)
def test_gradient_checkpointing_changes_no_gradient_no_statistic_and_no_name(normalization, count, xla):
    (found, state), (expected, before) = (
        after_a_step(count, normalization=normalization, xla=xla, gradient_checkpointing=gradient_checkpointing)
        for gradient_checkpointing in (True, False)
    )
    assert list(found) == list(expected)
    assert_alike(found, expected, 1e-10)
    for mine, plain in zip(state, before, strict=True):
        np.testing.assert_allclose(mine, plain, rtol=1e-10)


def peak() -> int:
    """KiB, of this process alone, where getrusage begins with its parent's."""
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))


def memory_of_a_gradient(words) -> int:
    """Prints by how many KiB a process of its own grows; `words` say whether blocks are computed again, and XLA."""
    gradient_checkpointing, xla = (word == "True" for word in words)
    model = flex_unet(
        image_size=(256, 256),
        image_channels=3,
        num_classes=2,
        base_filters=16,
        num_layers=4,
        activation="mish",
        gradient_checkpointing=gradient_checkpointing,
    )

    def gradient(weights, image):
        with tf.GradientTape() as tape:
            tape.watch(weights)
            value = tf.reduce_mean(model.stateless_call(weights, [v.value for v in model.non_trainable_variables], image, training=True)[0] ** 2)
        return tape.gradient(value, weights)

    before = peak()
    tf.function(gradient, autograph=False, jit_compile=xla)([v.value for v in model.trainable_variables], tf.zeros([16, 256, 256, 3]))
    print(peak() - before)
    return 0


@pytest.mark.slow
@pytest.mark.parametrize("xla", [False, True])
def test_gradient_checkpointing_saves_memory(xla):
    grown = [
        processes.start("test_step_options:memory_of_a_gradient", [str(gradient_checkpointing), str(xla)]).wait(300)
        for gradient_checkpointing in (False, True)
    ]
    peaks = [int(process.stdout) for process in grown]
    assert peaks[1] < 0.7 * peaks[0], peaks


def stream(replicas, count):
    """The batches of the rig, over and over, each a little darker than the last, as `Stream.batches` yields them: replica by replica."""
    shares = {"image": IMAGES, "mask": MASKS, "weight": WEIGHTS}
    steps = {name: np.concatenate([value * (0.9**step if name == "image" else 1) for step in range(6)]) for name, value in shares.items()}
    data = tf.data.Dataset.from_tensor_slices(steps).batch(BATCH // count, drop_remainder=True).repeat()
    return replicas.distribute(data.apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY)))


@pytest.mark.parametrize(("count", "xla"), [(2, False), slow_unless(False, 2, True), slow_unless(False, 1, False)])
def test_several_steps_in_one_call_are_the_same_steps(count, xla):
    rates = [0.01, 0.02, 0.005, 0.01, 0.03, 0.01]
    with precision_scope("float64"):
        found = []
        for calls in ([1] * 6, [4, 2]):
            made = rig(count, ADAM, dropout_rate=0.1, normalization="batch", xla=xla, **UNET)
            batches, values = stream(made.replicas, count), []
            for place, size in enumerate(calls):
                first = sum(calls[:place])
                given = {"total_weight": float(WEIGHTS.sum()), "stop_requests": [1.0, 0.0]}
                if size == 1:
                    outcome = made.step(next(batches), global_step=first, learning_rate=rates[first], **given)
                    values.append(outcome.values.numpy())
                else:
                    ahead = [*rates[first:], 9.0, 9.0, 9.0, 9.0][:4]
                    outcome = made.step.run_steps(batches, first=first, count=size, learning_rates=ahead, **given)
                    assert outcome.applied.numpy().tolist() == [True] * size and outcome.stop_requests.shape == (size, 2)
                    values += list(outcome.values.numpy())
            found.append((values, made.everything()))
        np.testing.assert_equal(found[1], found[0])
        assert len({tuple(v) for v in found[0][0]}) == 6


@pytest.mark.parametrize("precision", ["float32", slow_unless(False, "mixed_float16")])
def test_a_run_with_several_steps_in_a_call_ends_where_one_with_single_steps_ends(toy, tmp_path, monkeypatch, precision):
    params = ("train.steps_per_epoch=5", "train.checkpoint_steps=2", "flex_unet.dropout_rate=0.1", f"train.precision='{precision}'")
    toy_runs.train(toy, tmp_path / "single", *params, "train.epochs=2")
    many, sizes = TrainStep.run_steps, []
    monkeypatch.setattr(TrainStep, "run_steps", lambda self, *batches, **given: sizes.append(given["count"]) or many(self, *batches, **given))
    toy_runs.train(toy, tmp_path / "run", *params, "train.epochs=1", "train.steps_per_execution=3")
    toy_runs.train(toy, tmp_path / "run", *params, "train.epochs=2", "train.steps_per_execution=2")
    assert sizes == [2, 2, 1, 1, 2, 2], "a call ends where a checkpoint or an epoch does"
    assert toy_runs.outcome(tmp_path / "run") == toy_runs.outcome(tmp_path / "single")


@pytest.mark.slow
def test_gradients_in_packs_are_the_same_gradients(monkeypatch):
    found = []
    for pack_mib in (0, 1):
        with precision_scope("float64"):
            made = rig(2, KEEP_GRADIENT, **{**UNET, "base_filters": 32, "num_layers": 3})
            made.replicas.communication = Communication(all_reduce="ring", pack_mib=pack_mib).options()
            made.run(0, rate=1.0, weights=WEIGHTS)
            graph = made.step._compiled._list_all_concrete_functions()[0].graph
            found.append((len(collectives(graph)), sum(collectives(graph)), [made.replicas.read(m) for m in made.optimizer.momentums]))
    assert found[0][0] == 2 and found[1][0] > 6 and found[0][1] == found[1][1], "the same numbers in more pieces"
    for one, other in zip(found[0][2], found[1][2], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize(
    ("settings", "place", "words"),
    [
        ({"all_reduce": "nccl"}, {"on_gpu": False}, "'auto' or 'ring' on CPUs"),
        ({"all_reduce": "hierarchical_copy"}, {"on_gpu": False}, "'auto' or 'ring' on CPUs"),
        ({"all_reduce": "hierarchical_copy"}, {"on_gpu": True, "workers": 2}, "between several workers"),
        ({"all_reduce": "hierarchical_copy", "pack_mib": 8}, {"on_gpu": True}, "--all_reduce_pack_mib: expected 0"),
    ],
)
def test_a_way_that_the_devices_do_not_have_is_refused(settings, place, words):
    with pytest.raises(UserError, match=words):
        Communication(**settings).check(**{"devices": 2, "workers": 1, **place})


def test_every_way_says_so_to_tensorflow():
    kinds = tf.distribute.experimental.CommunicationImplementation
    for name, kind in (("auto", kinds.AUTO), ("nccl", kinds.NCCL), ("ring", kinds.RING)):
        options = Communication(all_reduce=name, pack_mib=3).options()
        assert (options.implementation, options.bytes_per_pack) == (kind, 3 * 2**20)
        Communication(all_reduce=name, pack_mib=3).check(devices=8, on_gpu=True, workers=2)


def test_the_rate_follows_the_batch_as_asked():
    rate = functools.partial(OptimizerSettings, learning_rate=0.01)
    assert rate().scaled_rate(64) == 0.01
    assert rate(scaling="linear", base_batch_size=4).scaled_rate(16) == pytest.approx(0.04)
    assert rate(scaling="sqrt", base_batch_size=4).scaled_rate(16) == pytest.approx(0.02)
    for wrong in ({"scaling": "linear"}, {"base_batch_size": 4}, {"scaling": "sqrt", "base_batch_size": 0}, {"ema_momentum": 1.0}):
        with pytest.raises(UserError):
            rate(**wrong)
